"""Samples of requests: what is kept, how, and that requests do not notice."""

import json
import os
import random
import resource
import shutil
import stat
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import httpx
import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Counter

from dhvt import open_dataset
from dhvt.artifact import load_artifact
from dhvt.data.formats import SUFFIXES
from dhvt.errors import ConfigError
from dhvt.ranking import rank
from serving import sampling
from serving.sampling import Sampler, folder_name, prepare_folder
from serving.settings import Settings
from tests.conftest import CLASSES, draw, encode
from tests.serving.conftest import ROOT, serving

IMAGES = [encode(draw(seed % 3, seed), "JPEG" if seed % 2 else "PNG") for seed in range(12)]


@pytest.fixture(scope="module")
def card(artifact_path):
    return load_artifact(artifact_path).card


def ranking(card, label, logit=9.0):
    """A ranking with this class first; its score is about 1 for a high logit and 1/3 for 0.01."""
    return rank(np.eye(len(card.classes), dtype=np.float32)[label : label + 1] * logit, card)[0]


class Counting:
    """The one counter that a sampler needs."""

    def __init__(self):
        registry = CollectorRegistry()
        self.samples = Counter("dhvt_samples_total", "x", ["outcome"], registry=registry)
        self.registry = registry

    def __call__(self, outcome):
        return self.registry.get_sample_value("dhvt_samples_total", {"outcome": outcome}) or 0


@pytest.fixture
def sample(tmp_path, card):
    """Offers images to a sampler with some settings, and waits until they are written; gives the counts."""
    folder = tmp_path / "samples"

    def run(images, logit=9.0, **settings):
        settings = Settings(sample_folder=str(folder), **settings)
        prepare_folder(settings)
        counts = Counting()
        sampler = Sampler(settings, counts, random.Random(0))
        for number, image in enumerate(images):
            while sampler._queue.full():
                time.sleep(0.01)
            sampler.offer(image, ranking(card, number % 3, logit), card)
        sampler.close()
        return counts

    run.folder = folder
    return run


def read_tasks(folder):
    return [json.loads(line) for line in (folder / "tasks.jsonl").read_text().splitlines()]


def files(folder):
    return sorted(path for path in (folder / "images").rglob("*") if path.is_file())


def test_an_image_and_a_task_are_kept(sample, card):
    counts = sample(IMAGES[:4])
    assert counts("saved") == 4
    tasks = read_tasks(sample.folder)
    for number, task in enumerate(tasks):
        path = sample.folder / task["data"]["file"]
        assert path.read_bytes() == IMAGES[number]
        assert path.parent.name == CLASSES[number % 3]
        assert path.suffix == (".jpg" if number % 2 else ".png")
        address = urlsplit(task["data"]["image"])
        assert (address.path, parse_qs(address.query)["d"]) == ("/data/local-files/", [task["data"]["file"]])
        (prediction,) = task["predictions"]
        assert prediction["model_version"] == f"{card.name} {card.version}"
        assert 0.9 < prediction["score"] <= 1
        (result,) = prediction["result"]
        assert result == {
            "from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [CLASSES[number % 3]]},
        }  # fmt: skip


@pytest.mark.parametrize(("file_format", "suffix"), [("HEIF", ".heic"), ("AVIF", ".avif"), ("TIFF", ".tif")])
def test_an_image_is_kept_under_an_ending_that_a_data_set_takes(sample, file_format, suffix):
    sample([encode(draw(0, 0), file_format)])
    (task,) = read_tasks(sample.folder)
    assert task["data"]["file"].endswith(suffix)
    assert suffix in SUFFIXES


def test_only_the_owner_can_read_them(sample):
    old = os.umask(0)
    try:
        sample(IMAGES[:2])
    finally:
        os.umask(old)
    for path in [sample.folder, *sample.folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_rate_and_score(sample):
    assert sample([], sample_rate=0.5)("saved") == 0
    many = [IMAGES[0] + b"%d" % number for number in range(400)]
    assert 150 < sample(many, sample_rate=0.5)("saved") < 250
    assert sample(IMAGES, logit=9.0, sample_below_score=0.9)("saved") == 0
    assert sample(IMAGES[1:], logit=0.01, sample_below_score=0.9)("saved") == 11


def test_an_image_is_kept_once_wherever_it_lies_now(sample):
    sample(IMAGES[:1])
    (path,) = files(sample.folder)
    moved = path.rename(sample.folder / "images" / path.name)
    (sample.folder / "images" / "dog").mkdir()
    shutil.move(moved, sample.folder / "images" / "dog" / path.name)
    assert sample(IMAGES[:1])("repeated") == 1
    assert len(files(sample.folder)) == 1


def test_the_cap_counts_what_is_there_already(sample):
    size = max(map(len, IMAGES)) + 600
    cap = 3 * size
    first = sample(IMAGES[:2], sample_max_bytes=cap)
    again = sample(IMAGES[2:], sample_max_bytes=cap)
    assert first("saved") == 2
    assert again("saved") >= 1
    assert again("full") >= 1
    assert again("saved") + again("full") == 10
    assert sum(path.stat().st_size for path in [*files(sample.folder), sample.folder / "tasks.jsonl"]) <= cap
    for path in files(sample.folder):
        path.unlink()
    (sample.folder / "tasks.jsonl").unlink()
    assert sample(IMAGES[:2], sample_max_bytes=cap)("saved") == 2


def test_samplers_of_several_workers_share_folder_and_cap(sample, card):
    sample([])
    cap = 5 * (max(map(len, IMAGES)) + 600)
    settings = Settings(sample_folder=str(sample.folder), sample_max_bytes=cap)
    samplers = [Sampler(settings, Counting()) for _ in range(4)]
    for number, image in enumerate(IMAGES):
        samplers[number % 4].offer(image, ranking(card, 0), card)
    for sampler in samplers:
        sampler.close()
    written = [*files(sample.folder), sample.folder / "tasks.jsonl"]
    assert sum(path.stat().st_size for path in written) <= cap
    assert len(read_tasks(sample.folder)) == len(written) - 1 >= 5


def test_a_disk_that_fails_or_hangs_keeps_nobody_waiting(sample, card, monkeypatch, caplog):
    settings = Settings(sample_folder=str(sample.folder))
    prepare_folder(settings)
    free = threading.Event()
    monkeypatch.setattr(sampling, "_write_new", lambda *_: free.wait(30) and 1 / 0)
    counts = Counting()
    sampler = Sampler(settings, counts)
    for image in IMAGES * 10:
        sampler.offer(image, ranking(card, 0), card)  # would wait for ever if it waited at all
    assert counts("dropped") >= 120 - 33
    free.set()
    sampler.close()
    assert counts("failed") + counts("dropped") == 120
    assert len([record for record in caplog.records if "cannot be written" in record.message]) == 1


def test_a_full_disk_leaves_neither_half_a_line_nor_an_image_without_one(sample, card):
    sample([])
    tasks = sample.folder / "tasks.jsonl"
    tasks.write_text("{}\n" * 2_000_000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (tasks.stat().st_size + 100, limits[1]))
    try:
        assert sample(IMAGES[:1])("failed") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert tasks.stat().st_size == 6_000_000
    assert files(sample.folder) == []
    assert sample(IMAGES[:1])("saved") == 1
    assert len(read_tasks(sample.folder)) == 2_000_001


def test_without_a_folder_nothing_runs():
    before = threading.active_count()
    sampler = Sampler(Settings(), Counting())
    sampler.offer(b"x", SimpleNamespace(scores=[0.1]), None)
    assert threading.active_count() == before
    sampler.close()


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"DHVT_SAMPLE_FOLDER is .*, which cannot be written to"):
        prepare_folder(Settings(sample_folder=str(tmp_path / "file")))


def test_settings_that_are_shares():
    assert Settings.from_environ({"DHVT_SAMPLE_RATE": "0.05"}).sample_rate == 0.05
    for bad in ("-1", "1.5", "nan", "1e-3", "half", ""):
        with pytest.raises(ConfigError, match=r"DHVT_SAMPLE_RATE is .*from 0 to 1"):
            Settings.from_environ({"DHVT_SAMPLE_RATE": bad})


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("Kätzchen 5", "Kätzchen 5"),
        ("a/b", "a%2Fb"),
        ("..", "%2E."),
        ("a\nb", "a%0Ab"),
        ("", "_"),
        ("ä" * 300, "ä" * 100),
        ("caf\udce9", "caf%5Cudce9"),
    ],
)
def test_classes_are_names_of_folders(label, expected):
    assert folder_name(label) == expected


def test_what_a_server_kept_can_be_labelled_and_trained_on(artifact_path, tmp_path):
    folder = tmp_path / "samples"
    with serving(tmp_path / "log", DHVT_MODEL=str(artifact_path), DHVT_SAMPLE_FOLDER=str(folder)) as url:
        for image in IMAGES[:3]:
            assert httpx.post(f"{url}/classify", files={"image": image}).status_code == 200
        httpx.post(f"{url}/classify", files={"image": b"broken"})
        httpx.post(f"{url}/classify/batch", files=[("image", image) for image in [*IMAGES[3:6], b"broken"]])
        deadline = time.monotonic() + 30
        while 'dhvt_samples_total{outcome="saved"} 6.0' not in httpx.get(f"{url}/metrics").text:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    tasks = read_tasks(folder)
    assert {(folder / task["data"]["file"]).read_bytes() for task in tasks} == set(IMAGES[:6])
    assert len(open_dataset(folder / "images")) == 6

    truth = {image: CLASSES[seed % 3] for seed, image in enumerate(IMAGES)}
    for number, task in enumerate(tasks):  # as Label Studio exports what people chose
        label = truth[(folder / task["data"]["file"]).read_bytes()]
        result = {"type": "choices", "from_name": "label", "to_name": "image", "value": {"choices": [label]}}
        task["annotations"] = [{"result": [result] if number else [], "was_cancelled": not number}]
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    command = [sys.executable, ROOT / "examples" / "apply_labels.py", tmp_path / "export.json", folder, tmp_path / "labelled"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.stdout.startswith("5 of 6 images"), result.stderr
    labelled = open_dataset(tmp_path / "labelled")
    assert [labelled.classes[label] for label in labelled.labels] == [truth[labelled.read(i)] for i in range(len(labelled))]
