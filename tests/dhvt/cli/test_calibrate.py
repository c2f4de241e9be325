"""``dhvt calibrate``, and prediction sets on the command line and in Python."""

import csv
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from dhvt import Classifier, open_dataset
from dhvt.artifact import load_artifact, write_card
from dhvt.cli.main import main
from dhvt.confidence.reference import load_reference, write_reference
from dhvt.data.fingerprint import hash_bytes
from dhvt.data.record import record_source
from dhvt.errors import ConfigError
from export.model_card import write_model_card
from export.pipeline import export_model
from tests.conftest import CLASSES, draw


def run(*arguments):
    return CliRunner().invoke(main, [*map(str, arguments)])


@pytest.fixture(scope="module")
def calibrated(artifact_path, image_folder, tmp_path_factory):
    """The small model with 60 reference images."""
    path = tmp_path_factory.mktemp("calibrated") / "artifact"
    shutil.copytree(artifact_path, path)
    result = run("calibrate", "--model", path, "--data", image_folder)
    assert result.exit_code == 0, result.output
    assert "has 60 reference images, in fp32" in result.stdout
    assert "up to a coverage of 0.9836" in result.stdout
    assert "it may have seen these images" in result.stderr
    return path


def test_the_reference_is_what_the_engine_gives(calibrated, image_folder):
    artifact, source = load_artifact(calibrated), open_dataset(image_folder)
    record = record_source(source)
    assert artifact.card.reference.items() >= record.items()
    reference = load_reference(artifact)
    assert reference.labels.tolist() == source.labels.tolist()
    assert reference.hashes.tolist() == [hash_bytes(source.read(index)) for index in range(60)]
    classifier = Classifier.load(calibrated, engine="onnxruntime", threads=1)
    for index in (0, 30, 59):
        best = classifier.classify(source.read(index))[0]
        measured, _ = reference.find("fp32")
        assert best["score"] == pytest.approx(measured.top_score[index], abs=1e-4)
        assert best["label"] == CLASSES[measured.predicted[index]]


def test_classify_prints_the_set(calibrated, tmp_path):
    draw(0, 1000).save(tmp_path / "a.png")
    command = ["classify", "--model", calibrated, "--engine", "onnxruntime", tmp_path / "a.png"]
    printed = run(*command, "--coverage", "0.8").stdout
    assert "; one of: " in printed
    answer = json.loads(run(*command, "--json", "--coverage", "0.8").stdout)
    assert printed.strip().endswith(", ".join(answer["prediction_set"]))
    assert answer["prediction_set"][0] == answer["predictions"][0]["label"]
    assert "prediction_set" not in json.loads(run(*command, "--json").stdout)
    few = json.loads(run(*command, "--json", "--coverage", "0.99").stdout)
    assert sorted(few["prediction_set"]) == CLASSES
    assert few["prediction_set_note"] == "every label: coverage 0.99 needs 99 reference images, and this model has 60"
    assert "every label: coverage 0.99 needs" in run(*command, "--coverage", "0.99").stdout


def test_sets_that_fall_short_say_so_in_every_format(calibrated, tmp_path):
    """By class, where one has too few reference images, the set itself is printed too."""
    draw(0, 1000).save(tmp_path / "a.png")
    command = ["classify", "--model", calibrated, "--engine", "onnxruntime", "--coverage", "0.96", "--by-class"]
    command += [tmp_path / "a.png"]
    answer = json.loads(run(*command, "--json").stdout)
    labels, note = answer["prediction_set"], answer["prediction_set_note"]
    assert note.startswith("coverage 0.96 by class needs 24 reference images of each class, and one has 20")
    assert run(*command).stdout.strip().endswith(f"; one of: {', '.join(labels)} ({note})")
    (row,) = csv.DictReader(run(*command, "--csv").stdout.splitlines())
    assert (row["prediction_set"], row["prediction_set_note"]) == (" | ".join(labels), note)
    run(*command, "--parquet", tmp_path / "answers.parquet")
    (row,) = pq.read_table(tmp_path / "answers.parquet").to_pylist()
    assert (row["prediction_set"], row["prediction_set_note"]) == (labels, note)


def test_sets_in_python(calibrated, image_folder):
    classifier = Classifier.load(calibrated, engine="onnxruntime", threads=1)
    source = open_dataset(image_folder)
    images = [source.read(index) for index in range(60)]
    results = list(classifier.classify_many(images, top_k=1, coverage=0.9))
    hits = [CLASSES[label] in result.prediction_set for label, result in zip(source.labels, results, strict=True)]
    assert sum(hits) >= 54  # on the reference itself, at least
    assert classifier.classify(images[0], coverage=0.9).prediction_set == results[0].prediction_set
    assert classifier.classify(images[0]).prediction_set is None
    with pytest.raises(ConfigError, match=r"coverage is 95; it must be between 0 and 1, as 0\.95"):
        classifier.classify(images[0], coverage=95)


def test_without_reference_images_no_set(artifact_path, tmp_path):
    draw(0, 1000).save(tmp_path / "a.png")
    result = run("classify", "--model", artifact_path, "--engine", "onnxruntime", "--coverage", "0.8", tmp_path / "a.png")
    assert result.exit_code == 1
    assert "this model has no reference images, which coverage needs; dhvt calibrate --model" in result.output


def test_images_that_the_model_has_seen_are_refused(artifact_copy, image_folder):
    card = load_artifact(artifact_copy).card
    write_card(artifact_copy, replace(card, data={"validation": record_source(open_dataset(image_folder))}))
    result = run("calibrate", "--model", artifact_copy, "--data", image_folder)
    assert result.exit_code == 1
    assert "100.0 % were used for validation" in result.output
    assert load_artifact(artifact_copy).card.reference == {}


def test_classify_marks_what_is_unknown(calibrated, tmp_path):
    draw(0, 1000).save(tmp_path / "a.png")
    command = ["classify", "--model", calibrated, "--engine", "onnxruntime", tmp_path / "a.png"]
    answer = json.loads(run(*command, "--json", "--reject", "0.02").stdout)
    assert answer["known"] is (answer["p_known"] > 0.02)
    share = min(answer["p_known"] + 0.001, 0.9999)
    marked = run(*command, "--reject", share).stdout
    assert ("; unknown (p = " in marked) is (answer["p_known"] < share)
    assert "unknown" not in run(*command, "--reject", answer["p_known"] - 0.001).stdout
    assert "unknown" not in run(*command).stdout
    refused = run(*command, "--reject", "0.001")
    assert refused.exit_code != 0
    assert "reject 0.001 needs 999 reference images, and this model has 60" in refused.stderr


@pytest.fixture
def new_images(image_folder, tmp_path):
    """Ten new images of each class, and those of the reference."""
    root = tmp_path / "images"
    shutil.copytree(image_folder, root)
    for label, name in enumerate(CLASSES):
        for seed in range(10):
            draw(label, 3000 + seed).save(root / name / f"new{seed}.png")
    return root


def test_evaluate_measures_coverage_on_what_is_no_reference(calibrated, new_images, tmp_path):
    model = shutil.copytree(calibrated, tmp_path / "model")
    command = ["evaluate", "--model", model, "--engine", "onnxruntime", "--data", new_images]
    result = run(*command, "--record", "--report", tmp_path / "report")
    assert result.exit_code == 0, result.output
    rows = re.findall(r"coverage ([\d.]+): right label in the set for ([\d.]+) % of 30 images", result.stdout)
    assert [float(coverage) for coverage, _ in rows] == [0.8, 0.9, 0.95]
    card = load_artifact(model).card
    assert card.metrics["test"]["images"] == 90
    recorded = card.metrics["test"]["coverage"]
    assert [(entry["images"], f"{100 * entry['measured']:.1f}") for entry in recorded] == [(30, share) for _, share in rows]
    assert all(entry["measured"] >= entry["least"] for entry in recorded)
    assert {"rejection", "calibration"} <= card.metrics["test"].keys()
    evidence = json.loads((model / "model.json").read_text())["evidence"][-1]["predicate"]
    assert evidence["sampleSize"] == 30
    assert evidence["runtime"] == "onnxruntime:fp32"
    assert evidence["commitments"] == {"dataset": card.data["test"]["digest"]}
    assert {"coverage@0.95", "false_rejection_rate@0.05", "calibration_error"} <= {
        claim["metric"] for claim in evidence["claims"]
    }
    assert f"| right label in the set at 0.9 | {rows[1][1]} %" in (tmp_path / "report" / "report.md").read_text()
    assert "prediction set at coverage 0.9" in write_model_card(card, 1, registered=True)


def test_verify_fails_where_sets_cover_less_than_promised(calibrated, new_images, tmp_path):
    model = shutil.copytree(calibrated, tmp_path / "model")
    artifact = load_artifact(model)
    reference = load_reference(artifact)
    sure = replace(reference.measured["fp32"], true_score=np.zeros(60))
    write_reference(artifact, replace(reference, measured={"fp32": sure}), artifact.card.reference)
    result = run("verify", "--model", model, "--data", new_images)
    assert result.exit_code == 1
    assert re.search(r"onnxruntime:fp32: FAILS: coverage 0.8 is \d+\.\d% \(at least \d+\.\d%\); coverage 0.9", result.output)


def test_verify_fails_where_more_images_are_called_unknown_than_promised(calibrated, new_images, tmp_path):
    model = shutil.copytree(calibrated, tmp_path / "model")
    artifact = load_artifact(model)
    reference = load_reference(artifact)
    alike = replace(reference.measured["fp32"], novelty=np.linspace(0, 1e-6, 60))
    write_reference(artifact, replace(reference, measured={"fp32": alike}), artifact.card.reference)
    result = run("verify", "--model", model, "--data", new_images)
    assert result.exit_code == 1
    fault = r"at reject 0\.05, \d+\.\d% of known images are called unknown \(at most \d+\.\d%\)"
    assert re.search(rf"onnxruntime:fp32: FAILS: {fault}", result.output), result.output


def test_the_report_shows_what_is_promised_and_what_is_unknown(calibrated, artifact_path, image_folder, new_images, tmp_path):
    (tmp_path / "others" / "deeper").mkdir(parents=True)
    for seed in range(5):
        noise = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "others" / "deeper" / f"{seed}.png")
    command = ["evaluate", "--engine", "onnxruntime", "--data", new_images, "--unknown", tmp_path / "others"]
    result = run(*command, "--model", calibrated, "--report", tmp_path / "report")
    assert result.exit_code == 0, result.output
    assert re.search(r"of 5 images of other kinds are called unknown: .* at reject 0.05; AUROC \d+\.\d%", result.output)
    report = (tmp_path / "report" / "report.md").read_text()
    for name in ("sets", "coverage", "known"):
        assert f"({name}.png)" in report
        assert (tmp_path / "report" / f"{name}.png").stat().st_size > 5_000
    refused = run(*command, "--model", artifact_path)
    assert (refused.exit_code, "--unknown needs a model with reference images: dhvt calibrate" in refused.stderr) == (1, True)
    reference = run(*command[:3], "--model", calibrated, "--data", image_folder, "--unknown", tmp_path / "others")
    assert "all of these images are reference images" in reference.stderr
    for path in (tmp_path / "others" / "deeper").iterdir():
        path.write_bytes(b"no image")
    assert "0.png" in run(*command, "--model", calibrated).stderr  # which stops it, as a broken one of --data does
    broken = run(*command, "--model", calibrated, "--on-broken", "skip")
    assert (broken.exit_code, f"none of the images in {tmp_path / 'others'} can be read" in broken.stderr) == (1, True)


def test_calibrating_again_removes_what_was_measured_of_the_old_reference(calibrated, new_images, tmp_path):
    model = shutil.copytree(calibrated, tmp_path / "model")
    assert run("evaluate", "--model", model, "--engine", "onnxruntime", "--data", new_images, "--record").exit_code == 0
    assert "coverage" in load_artifact(model).card.metrics["test"]
    result = run("calibrate", "--model", model, "--data", new_images)
    assert "loses what was measured of its old reference: run dhvt evaluate --record again" in result.stderr
    card = load_artifact(model).card
    assert not {"coverage", "rejection", "calibration"} & card.metrics["test"].keys()
    assert card.metrics["test"]["images"] == 90


def test_exporting_more_keeps_the_reference(calibrated, checkpoint, image_folder, tmp_path):
    model = shutil.copytree(calibrated, tmp_path / "model")
    card = load_artifact(model).card
    data = card.data | {"reference": {"digest": "of the training", "images": 5}}
    write_card(model, replace(card, data=data))
    lines = []
    export_model(load_artifact(model), model, ("explain",), log=lambda message, **_: lines.append(message))
    assert load_artifact(model).card.reference == card.reference
    assert not [line for line in lines if "no reference images" in line]
