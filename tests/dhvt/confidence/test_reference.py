"""The reference in its artifact: written, read, and refused where it is damaged."""

from dataclasses import replace

import numpy as np
import pytest

from dhvt.artifact import load_artifact, write_card
from dhvt.confidence.reference import Measured, Reference, choose_images, load_reference, write_reference
from dhvt.data.sources import open_dataset
from dhvt.errors import ArtifactError
from dhvt.naming import is_made_version, make_version

LABELS = np.array([0, 1, 2, 1], np.int32)
PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.1, 0.1, 0.8], [0.2, 0.5, 0.3]])


@pytest.fixture
def reference():
    fp32, int8 = (Measured.of(rows, LABELS) for rows in (PROBABILITIES, PROBABILITIES[::-1]))
    return Reference(labels=LABELS, hashes=np.arange(4, dtype=np.uint64), measured={"fp32": fp32, "int8": int8})


def test_what_is_measured_of_an_image():
    measured = Measured.of(PROBABILITIES, LABELS)
    assert measured.predicted.tolist() == [0, 0, 2, 1]
    assert measured.top_score.tolist() == [0.7, 0.5, 0.8, 0.5]
    assert measured.true_score.tolist() == pytest.approx([0, 0.6, 0, 0])


def test_it_is_part_of_the_artifact(artifact_copy, reference):
    before = load_artifact(artifact_copy)
    assert load_reference(before) is None
    assert is_made_version(before.card.version, before.digest)
    after = write_reference(before, reference, {"source": "images"})
    assert after.card.reference == {"source": "images", "images": 4, "precisions": ["fp32", "int8"]}
    assert after.card.files.keys() == {"model.explain.onnx", "model.onnx", "reference.npz"}
    assert after.digest != before.digest
    assert after.card.version == make_version(after.digest)
    assert after.card.variants == before.card.variants
    found = load_reference(after)
    for precision, measured_in in (("int8", "int8"), ("bf16", "fp32")):
        measured, chosen = found.find(precision)
        assert chosen == measured_in
        assert measured.true_score.tolist() == reference.measured[measured_in].true_score.tolist()
        assert measured.novelty is None


def test_a_version_that_was_given_stays(artifact_copy, reference):
    write_card(artifact_copy, replace(load_artifact(artifact_copy).card, version="v1"))
    assert write_reference(load_artifact(artifact_copy), reference, {}).card.version == "v1"


def test_with_other_images_what_was_measured_of_the_reference_goes(artifact_copy, reference):
    calibration = {"measured": 1.0, "most": 2.0, "images": 100}
    measured = {"top1": 40.0, "engine": "openvino", "precision": "fp32"}
    card = write_reference(load_artifact(artifact_copy), reference, {"digest": "a"}).card
    write_card(artifact_copy, replace(card, metrics={"val_top1": 50.0, "test": measured | {"calibration": calibration}}))
    same = write_reference(load_artifact(artifact_copy), reference, {"digest": "a"}).card
    assert same.metrics["test"] == measured | {"calibration": calibration}
    other = write_reference(load_artifact(artifact_copy), reference, {"digest": "b"}).card
    assert other.metrics == {"val_top1": 50.0, "test": measured}


def test_a_model_that_was_exported_meanwhile_does_not_get_the_reference(artifact_copy, reference):
    artifact = load_artifact(artifact_copy)
    other = write_card(artifact_copy, replace(artifact.card, temperature=9.0))
    with pytest.raises(ArtifactError, match="has another model than when this command began"):
        write_reference(artifact, reference, {})
    assert load_artifact(artifact_copy).card == other


def test_a_changed_or_foreign_file_is_refused(artifact_copy, reference):
    artifact = write_reference(load_artifact(artifact_copy), reference, {})
    path = artifact_copy / "reference.npz"
    path.write_bytes(b"no archive")
    with pytest.raises(ArtifactError, match=r"reference.npz is not the exported file"):
        load_artifact(artifact_copy)
    with pytest.raises(ArtifactError, match="run dhvt calibrate again"):
        load_reference(artifact)
    replace(reference, measured={"int8": reference.measured["int8"]}).save(path)
    with pytest.raises(ArtifactError, match=r"incomplete; run dhvt calibrate again"):
        load_reference(artifact)


def test_of_many_images_some_are_taken_by_chance(image_folder, monkeypatch):
    source = open_dataset(image_folder)
    assert choose_images(source) is source
    monkeypatch.setattr("dhvt.confidence.reference.MOST_IMAGES", 12)
    chosen = choose_images(source)
    assert len(chosen) == 12
    assert len({chosen.name(index) for index in range(12)}) == 12
    assert len(set(chosen.labels.tolist())) == 3
