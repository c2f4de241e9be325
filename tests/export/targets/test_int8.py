import shutil
from dataclasses import replace

import click
import numpy as np
import pytest

from dhvt.artifact import load_artifact, write_card
from dhvt.confidence.reference import Measured, Reference, load_reference, write_reference
from dhvt.data.preprocess import preprocess_image
from dhvt.data.record import record_source, record_training_data
from dhvt.data.reopen import reopen_training_data
from dhvt.data.sources import open_dataset
from dhvt.data.splits import open_training_data
from dhvt.engines import open_engine
from dhvt.errors import ArtifactError, DataError, EngineError, ExportError
from dhvt.evaluation.agreement import Comparison
from export.images import open_images
from export.pipeline import export_model
from export.quantize import quantize
from export.settings import ExportOptions
from export.targets.int8 import Quantization, reason_to_drop, require_apart
from tests.conftest import draw

COMPARED = Comparison(
    runtime="openvino",
    images=1000,
    batch_sizes=(64,),
    max_abs_error=0.5,
    mean_abs_error=0.05,
    top1_agreement=0.99,
    top1=90.0,
    top1_reference=90.1,
)


def measured(speedup=1.5, **compared):
    return Quantization(calibration_images=300, comparison=replace(COMPARED, **compared), speedup=speedup)


def export_int8(checkpoint, out, data, **options):
    return export_model(checkpoint, out, ["onnx", "int8"], ExportOptions(data=str(data)), **options)


@pytest.fixture(scope="module")
def quantized(checkpoint, image_folder, tmp_path_factory):
    """The small model with an int8 graph, whether or not that pays for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.targets.int8.largest_top1_loss", lambda images: 100.0)
        patch.setattr("export.targets.int8.LEAST_SPEEDUP", 0.0)
        return export_int8(checkpoint, tmp_path_factory.mktemp("int8") / "artifact", image_folder)


def test_int8_travels_with_the_artifact_and_runs(quantized):
    assert sorted(quantized.card.files) == ["model.explain.onnx", "model.int8.bin", "model.int8.xml", "model.onnx"]
    variant = quantized.find_variant(format="openvino", precision="int8")
    (compared,) = variant.parity["comparisons"]
    assert compared["images"] == 30
    assert variant.parity["held_out"] is False  # the checkpoint does not say what it was trained on
    assert compared["max_abs_error"] > 0
    engine = open_engine(quantized, "openvino:int8", threads=2).engine
    assert (engine.name, engine.precision) == ("openvino", "int8")
    inputs = np.stack([preprocess_image(image, quantized.card.preprocess) for image in quantized.card.golden.encoded()])
    assert np.allclose(engine.predict(inputs), variant.golden_logits, atol=0.1)
    assert not np.allclose(engine.predict(inputs), quantized.card.golden.expected(), atol=1e-4)


def test_int8_is_compared_on_what_training_held_out(checkpoint, image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("export.targets.int8.largest_top1_loss", lambda images: 100.0)
    monkeypatch.setattr("export.targets.int8.LEAST_SPEEDUP", 0.0)
    parts = open_training_data(image_folder, val_fraction=0.2, seed=3)
    record = record_training_data(parts)
    trained = replace(checkpoint, recipe={"seed": 3}, data=record)
    artifact = export_int8(trained, tmp_path / "artifact", image_folder)
    parity = artifact.find_variant(precision="int8").parity
    assert (parity["held_out"], parity["comparisons"][0]["images"], parity["calibration_images"]) == (True, 12, 48)
    data = artifact.card.data
    assert {kind: data[kind]["images"] for kind in data} == {"training": 48, "validation": 12, "calibration": 48}
    assert data["training"] == record["training"]
    other = shutil.copytree(image_folder, tmp_path / "other")
    (other / "circle" / "00.png").rename(other / "circle" / "new.png")
    train, val, held_out = reopen_training_data(other, trained.classes, trained.data, 3)
    assert (held_out, len(train), len(val)) == (False, 30, 30)


def test_copies_that_training_held_out_do_not_stop_an_export(checkpoint, image_folder, tmp_path, caplog):
    data = shutil.copytree(image_folder, tmp_path / "data")
    for path in list(data.rglob("*.png")):
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
    record = record_training_data(open_training_data(data, val_fraction=0.2, seed=3))
    caplog.clear()
    images = open_images(ExportOptions(data=str(data)), checkpoint.classes, record, 3, print)
    assert len(require_apart(images)) == 2
    assert ["% were used for training" in message for message in caplog.messages] == [True, False]
    assert "% were used for calibration" in caplog.messages[1]
    with pytest.raises(DataError, match="to compare on, 100"):  # a folder that is not known to be split as in the training
        open_images(
            ExportOptions(data=str(image_folder)), checkpoint.classes, {"training": record_source(open_dataset(data))}, 3, print
        )


@pytest.fixture
def own_validation(checkpoint, image_folder, tmp_path):
    """A checkpoint that was trained on all of a folder, and validated on another."""
    val = tmp_path / "val"
    for label, name in enumerate(checkpoint.classes):
        (val / name).mkdir(parents=True)
        for seed in range(100, 104):
            draw(label, seed).save(val / name / f"{seed}.png")
    data = record_training_data(open_training_data(image_folder, val))
    return replace(checkpoint, recipe={"seed": 3}, data=data), val


def test_int8_is_not_compared_on_what_it_was_trained_on(own_validation, image_folder, tmp_path):
    trained, _ = own_validation
    with pytest.raises(DataError, match=r"100\.0 % were used for training.* with --val"):
        export_int8(trained, tmp_path / "artifact", image_folder)
    assert not (tmp_path / "artifact").exists()


def test_int8_is_not_compared_on_what_it_was_calibrated_on(checkpoint, image_folder, tmp_path):
    options = ExportOptions(data=str(image_folder), val=str(image_folder))
    with pytest.raises(DataError, match=r"100\.0 % were used for calibration"):
        export_model(checkpoint, tmp_path / "artifact", ["onnx", "int8"], options)


def test_int8_is_compared_on_the_trainings_own_validation_images(own_validation, image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("export.targets.int8.largest_top1_loss", lambda images: 100.0)
    monkeypatch.setattr("export.targets.int8.LEAST_SPEEDUP", 0.0)
    trained, val = own_validation
    options = ExportOptions(data=str(image_folder), val=str(val))
    artifact = export_model(trained, tmp_path / "artifact", ["onnx", "int8"], options)
    parity = artifact.find_variant(precision="int8").parity
    assert (parity["held_out"], parity["comparisons"][0]["images"], parity["calibration_images"]) == (True, 12, 60)
    assert artifact.card.data.keys() == {"training", "validation", "calibration"}
    assert artifact.card.data["calibration"]["digest"] == trained.data["training"]["digest"]
    assert parity["data"]["digest"] == trained.data["validation"]["digest"]


def test_no_target_is_compared_on_training_images(own_validation, image_folder, tmp_path):
    trained, val = own_validation
    with pytest.raises(DataError, match=r"to compare on, 100\.0 % were used for training"):
        export_model(trained, tmp_path / "artifact", options=ExportOptions(data=str(image_folder)))
    with pytest.raises(ExportError, match="--val there needs --data"):
        export_model(trained, tmp_path / "artifact", options=ExportOptions(val="there"))
    images = open_images(ExportOptions(data=str(val)), trained.classes, trained.data, 0, print)
    assert (len(images.calibration), len(images.comparison)) == (6, 6)


def test_an_int8_graph_that_was_changed_is_refused(quantized, tmp_path):
    copy = shutil.copytree(quantized.path, tmp_path / "copy")
    with (copy / "model.int8.bin").open("r+b") as file:
        file.write(b"\1\2\3")
    with pytest.raises(ArtifactError, match=r"model\.int8\.bin is not the exported file"):
        load_artifact(copy)


def test_int8_is_kept_only_where_it_pays(checkpoint, image_folder, tmp_path, monkeypatch, capsys):
    assert reason_to_drop(measured()) is None
    assert "costs 0.30 points" in reason_to_drop(measured(top1=89.8))
    assert reason_to_drop(measured(images=50, top1_reference=92.0)) is None  # one of them
    assert "costs 4.00 points" in reason_to_drop(measured(images=50, top1=88.0, top1_reference=92.0))
    assert "1.05 times as fast" in reason_to_drop(measured(speedup=1.05))
    assert "nan" in reason_to_drop(measured(top1=float("nan")))
    monkeypatch.setattr("export.targets.int8.LEAST_SPEEDUP", 1e9)
    monkeypatch.setattr("export.targets.int8.largest_top1_loss", lambda images: 100.0)
    artifact = export_int8(checkpoint, tmp_path / "artifact", image_folder, log=click.echo)
    assert "left out: int8 is" in capsys.readouterr().err
    assert sorted(path.name for path in artifact.path.iterdir()) == ["model.explain.onnx", "model.json", "model.onnx"]


def test_an_earlier_int8_graph_is_dropped_with_the_new_one(quantized, image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("export.targets.int8.LEAST_SPEEDUP", 1e9)
    monkeypatch.setattr("export.targets.int8.largest_top1_loss", lambda images: 100.0)
    copy = shutil.copytree(quantized.path, tmp_path / "copy")
    card = load_artifact(copy).card
    assert "calibration" in card.data
    entries = {name: {"engine": "openvino", "precision": name, "top1": 50.0} for name in ("int8", "bf16", "fp32")}
    write_card(copy, replace(card, metrics=entries))
    labels = np.zeros(30, np.int64)
    given = Measured.of(np.full((30, 3), 1 / 3, np.float32), labels)
    reference = Reference(labels=labels, hashes=labels.astype(np.uint64), measured={"fp32": given, "int8": given})
    write_reference(load_artifact(copy), reference, {})
    lines = []
    options = ExportOptions(data=str(image_folder))
    export_model(load_artifact(copy), copy, ["int8"], options, log=lambda message, **_: lines.append(message))
    card = load_artifact(copy).card
    assert card.metrics.keys() == {"bf16", "fp32"}
    assert card.reference["precisions"] == [*load_reference(load_artifact(copy)).measured] == ["fp32"]
    assert "metrics.int8 was of the int8 graph that was here: run dhvt evaluate again" in lines
    assert "the reference was of other graphs too, and is of the rest now: run dhvt calibrate again" in lines
    assert [variant.format for variant in card.variants] == ["onnx", "explain"]
    assert "calibration" not in card.data
    assert sorted(path.name for path in copy.iterdir()) == [
        *("model.explain.onnx", "model.json", "model.onnx", "reference.npz"),
    ]


def test_int8_needs_data_and_a_model_with_it(checkpoint, artifact_path, tmp_path):
    with pytest.raises(ExportError, match="int8 needs --data"):
        export_model(checkpoint, tmp_path / "artifact", ["onnx", "int8"])
    with pytest.raises(EngineError, match="has no int8 graph"):
        open_engine(load_artifact(artifact_path), "openvino:int8", threads=1)


def test_what_cannot_be_quantized_is_an_error_of_export(tmp_path):
    graph = tmp_path / "model.onnx"
    graph.write_bytes(b"not a graph")
    with pytest.raises(ExportError, match=r"model\.onnx cannot be quantized"):
        quantize(graph, np.zeros((1, 8, 8, 3), np.uint8), tmp_path)
