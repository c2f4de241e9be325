"""A worker's test for drift: what it is fed, what survives a reload and a restart, and what several workers say together."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from dhvt.artifact import load_artifact, write_card
from dhvt.confidence.drift import BLOCK
from dhvt.confidence.reference import Measured, Reference, write_reference
from dhvt.errors import ConfigError
from dhvt.ranking import rank
from serving.inference.drift import DriftMonitor, prepare_drift_folder
from serving.metrics import metrics
from serving.settings import Settings


@pytest.fixture(scope="module")
def artifact(artifact_path, tmp_path_factory):
    """The small model, with a reference of 300 images that are one of its three classes each."""
    path = shutil.copytree(artifact_path, tmp_path_factory.mktemp("drift") / "artifact")
    measured = {"fp32": Measured.of(probabilities(np.random.default_rng(0), 300), np.arange(300) % 3)}
    reference = Reference(labels=np.arange(300, dtype=np.int32) % 3, hashes=np.zeros(300, np.uint64), measured=measured)
    return write_reference(load_artifact(path), reference, {})


def probabilities(rng, count):
    return rng.dirichlet([2, 1, 1], count)


@pytest.fixture
def answer(artifact):
    """Rankings like the reference's, or with a class that is always the first."""

    def draw(count, seed=1, first=None):
        rows = probabilities(np.random.default_rng(seed), count)
        if first is not None:
            rows[:, first] += 1
        return rank(np.log(rows).astype(np.float32) * artifact.card.temperature, artifact.card)

    return draw


@pytest.fixture
def start(tmp_path):
    """Starts monitors, and ends those that are left."""
    started = []

    def make(worker=1, **settings):
        settings = Settings(drift_state=str(tmp_path / "state"), **settings)
        started.append(DriftMonitor(settings, worker, tmp_path / "state", metrics()))
        return started[-1]

    yield make
    for monitor in started:
        monitor.close()


def test_undisturbed_then_changed(start, artifact, answer, caplog):
    monitor = start()
    observe = monitor.watch(artifact, "fp32")
    observe(answer(320))
    monitor.close()
    quiet = monitor.report()
    assert quiet["alarm"] is None
    assert (quiet["images"], quiet["reference_images"], quiet["precision"]) == (320, 300, "fp32")
    assert quiet["window"] == {"images": 320, "grew": [], "shrank": []}
    assert quiet["evidence"] < quiet["alarm_at"] == 100
    assert quiet["meaning"] == (
        "no alarm: images of the reference's kind, in random order, ever give evidence of 100 or more with a probability of at "
        "most 0.01"
    )
    monitor = start()
    monitor.watch(artifact, "fp32")(answer(640, first=2))
    monitor.close()
    report = monitor.report()
    assert report["images"] == 960
    assert report["evidence"] > 100
    assert "classes" in report["alarm"]["of"]
    assert 320 <= report["alarm"]["began_after_images"] < report["alarm"]["after_images"] < 640
    assert [entry["label"] for entry in report["window"]["grew"]] == ["stripes"]
    assert report["meaning"].startswith("the images have changed: ")
    assert "the images have changed; GET /drift says since when" in caplog.text
    assert next(iter(metrics().drift_alarm.collect())).samples[0].value == 1
    assert next(iter(metrics().drift_evidence.collect())).samples[0].value == pytest.approx(np.log10(report["evidence"]))


def test_a_reload_of_the_same_model_goes_on_and_another_begins_a_new_test(start, artifact, answer, tmp_path):
    monitor = start()
    old = monitor.watch(artifact, "fp32")
    old(answer(100))
    again = monitor.watch(artifact, "fp32")
    again(answer(100))
    monitor.close()
    assert monitor.report()["images"] == 200 // BLOCK * BLOCK
    shutil.copytree(artifact.path, tmp_path / "other")
    write_card(tmp_path / "other", replace(artifact.card, temperature=2.0))
    monitor = start()
    stale = monitor.watch(artifact, "fp32")
    fresh = monitor.watch(load_artifact(tmp_path / "other"), "fp32")
    stale(answer(64))
    fresh(answer(96))
    monitor.close()
    assert monitor.report()["images"] == 96


def test_nothing_is_tested_without_a_reference_in_this_precision(start, artifact, artifact_path, answer, caplog):
    for watched, precision, settings in (
        (load_artifact(artifact_path), "fp32", {}),
        (artifact, "fp32", {"drift_every": 0}),
        (artifact, "int8", {}),
    ):
        monitor = start(**settings)
        monitor.watch(watched, precision)(answer(64))
        monitor.close()
        assert monitor.report() is None
    assert caplog.text.count("the reference was not measured in int8; run dhvt calibrate here") == 1


def test_what_cannot_wait_is_not_tested(start, artifact, answer, monkeypatch):
    monkeypatch.setattr("serving.inference.drift.MOST_WAITING", 0)
    monitor = start()
    monitor.watch(artifact, "fp32")(answer(64))
    monitor.close()
    assert monitor.report()["images"] == 0


def test_workers_together(start, artifact, answer):
    first, second = (start(worker, workers=2) for worker in (1, 2))
    first.watch(artifact, "fp32")(answer(320))
    second.watch(artifact, "fp32")(answer(320, first=1))
    for monitor in (first, second):
        monitor.close()
    reports = [monitor.report() for monitor in (first, second)]
    assert reports[0] == reports[1]
    assert reports[0]["images"] == reports[0]["window"]["images"] == 640
    assert reports[0]["alarm"]["after_images"] <= 320
    alone = start(1, workers=1)
    alone.watch(artifact, "fp32")
    assert alone.report()["images"] == 0  # the states of two workers are no state of one


def test_only_every_third_image_counts(start, artifact, answer):
    monitor = start(drift_every=3)
    observe = monitor.watch(artifact, "fp32")
    rankings = answer(192, first=0)
    for position in range(2, 192, 3):
        rankings[position] = answer(1, first=1)[0]
    for size in [1, 2, 5, 0, 184]:
        observe(rankings[:size])
        rankings = rankings[size:]
    monitor.close()
    report = monitor.report()
    assert report["images"] == 64
    assert [(entry["label"], entry["share"]) for entry in report["window"]["grew"]] == [("square", 1.0)]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", b"text"])
def test_a_damaged_state_is_replaced(start, artifact, answer, tmp_path, content, caplog):
    (tmp_path / "state").mkdir()
    path = tmp_path / "state" / "worker-1.npz"
    path.write_bytes(content)
    monitor = start()
    monitor.watch(artifact, "fp32")(answer(BLOCK))
    monitor.close()
    assert monitor.report()["images"] == BLOCK
    assert "worker-1.npz is not read" in caplog.text
    with np.load(path) as file:
        assert "counts" in file


def test_the_folder_must_be_one_that_can_be_written(tmp_path):
    prepare_drift_folder(Settings())
    prepare_drift_folder(Settings(drift_state=str(tmp_path / "a" / "b")))
    assert not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"DHVT_DRIFT_STATE is .*file/x', which cannot be written to"):
        prepare_drift_folder(Settings(drift_state=str(tmp_path / "file" / "x")))
    for share in ("0", "1"):
        with pytest.raises(ConfigError, match=r"DHVT_DRIFT_FALSE_ALARM is .*; it must be between 0 and 1, such as 0.01"):
            Settings.from_environ({"DHVT_DRIFT_FALSE_ALARM": share})
