"""``dhvt export`` and its older scripts, on the small model."""

import json
import shlex
from dataclasses import replace

import pytest
from click.testing import CliRunner

from dhvt.artifact import load_artifact
from dhvt.cli.main import main
from dhvt.errors import ExportError
from dhvt.model.checkpoint import save_checkpoint
from export import pipeline
from export.pipeline import export_model
from export.settings import ExportOptions, OnnxSettings
from export.targets.int8 import Int8Settings
from export.targets.registry import LAYOUTS, TARGETS, load_layout, load_target, require_packages


def dhvt(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def folder(checkpoint, tmp_path):
    """A folder with a blank in its name, and the checkpoint in it."""
    path = tmp_path / "my runs"
    path.mkdir()
    save_checkpoint(checkpoint, path / "ckpt.pt")
    return path


def test_a_checkpoint_becomes_an_artifact(checkpoint, folder):
    metrics = {"val_images": 6, "val_top1": 50.0, "epoch": 3}
    save_checkpoint(replace(checkpoint, temperature=20.0, metrics=metrics), folder / "ckpt.pt")
    result = dhvt("export", folder / "ckpt.pt", "--resize-mode", "squash", "--opset-version", "19")
    assert result.exit_code == 0, result.output
    where = shlex.quote(str(folder / "artifact"))
    assert result.output.splitlines()[-1].endswith(f"serve it with DHVT_MODEL={where} bentoml serve")
    card = load_artifact(folder / "artifact").card
    assert "20, the limit of what is fitted" in result.output
    assert "6 validation images are too few" in result.output
    assert (card.preprocess.resize_mode, card.versions["onnx_opset"]) == ("squash", "19")
    assert card.metrics == {"epoch": 3}  # what was measured is of the training's mode
    (entry,) = card.provenance["exports"]
    assert (entry["targets"], entry["resize_mode"]) == (["onnx", "explain"], "squash")
    assert entry["command"] == shlex.join(
        ["dhvt", "export", str(folder / "ckpt.pt"), "--resize-mode", "squash", "--opset-version", "19"]
    )


def test_what_another_command_recorded_meanwhile_is_not_overwritten(artifact_copy, monkeypatch):
    """As dhvt evaluate --record that ends while int8 is being made."""
    original, before = pipeline.write_card, load_artifact(artifact_copy).card

    def record_first(folder, card):
        original(artifact_copy, replace(before, metrics={"test": {"top1": 50.0}}))
        return original(folder, card)

    monkeypatch.setattr(pipeline, "write_card", record_first)
    result = dhvt("export", artifact_copy, "--target", "explain")
    assert (result.exit_code, "was changed while this ran, so nothing is written" in result.output) == (1, True)
    assert load_artifact(artifact_copy).card.metrics == {"test": {"top1": 50.0}}


def test_what_was_exported_before_stays_in_the_record(checkpoint, artifact_copy, image_folder, monkeypatch):
    monkeypatch.setattr("export.targets.int8.largest_top1_loss", lambda images: 100.0)
    monkeypatch.setattr("export.targets.int8.LEAST_SPEEDUP", 0.0)
    before = load_artifact(artifact_copy)
    result = dhvt("export", artifact_copy, "--target", "int8", "--data", image_folder)
    assert result.exit_code == 0, result.output
    after = load_artifact(artifact_copy)
    assert [variant.format for variant in after.card.variants] == ["onnx", "explain", "openvino"]
    assert after.card.files["model.onnx"] == before.card.files["model.onnx"]
    assert [entry["targets"] for entry in after.card.provenance["exports"]] == [["onnx", "explain"], ["int8"]]
    assert "int8: top-1 " in result.output
    assert "exporting int8, 1 of 1\n" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--precision", "bf16"], "--precision fits none of the targets onnx"),
        (["--target", "tensorrt", "--opset-version", "19"], "--opset-version fits none of the targets tensorrt"),
        (["--target", "int8"], "int8 needs --data"),
        (["--target", "onnx", "--target", "int8"], "int8 needs --data"),
    ],
)
def test_options_that_do_not_fit_are_refused(folder, options, message):
    result = dhvt("export", folder / "ckpt.pt", *options)
    assert (result.exit_code, result.output.count("\n")) == (1, 1), result.output
    assert message in result.output
    assert not (folder / "artifact").exists()


def test_a_model_has_a_name_and_a_version(checkpoint, folder, image_folder):
    """Those of the options, else the training's name, else the images'."""

    def export(*options, **changes):
        save_checkpoint(replace(checkpoint, **changes), folder / "ckpt.pt")
        result = dhvt("export", folder / "ckpt.pt", *options)
        assert result.exit_code == 0, result.output
        artifact = load_artifact(folder / "artifact")
        return artifact.card.name, artifact.card.version, artifact.digest

    assert export("--name", "feet", "--version", "3", model_name="hands")[:2] == ("feet", "3")
    name, version, digest = export(model_name="hands")
    assert (name, version[8:]) == ("hands", f"-{digest[:8]}")
    other_name, other_version, other_digest = export(model_name="hands", temperature=3.0)
    assert other_name == name
    assert other_version != version
    assert other_digest != digest
    assert export("--data", image_folder)[0] == image_folder.name
    assert export()[0] == "dhvt_test"


def test_a_variant_that_is_added_makes_another_version(checkpoint, artifact_copy, image_folder, monkeypatch):
    monkeypatch.setattr("export.targets.int8.largest_top1_loss", lambda images: 100.0)
    monkeypatch.setattr("export.targets.int8.LEAST_SPEEDUP", 0.0)
    before = load_artifact(artifact_copy).card
    int8 = ("--target", "int8", "--data", image_folder)
    assert dhvt("export", artifact_copy, *int8).exit_code == 0
    after = load_artifact(artifact_copy).card
    assert (after.name, after.version) == (before.name, f"{after.version[:8]}-{after.digest[:8]}")
    assert after.version != before.version
    assert dhvt("export", artifact_copy, *int8, "--version", "3", "--name", "hands").exit_code == 0
    assert dhvt("export", artifact_copy, *int8).exit_code == 0
    assert (load_artifact(artifact_copy).card.name, load_artifact(artifact_copy).card.version) == ("hands", "3")


@pytest.mark.parametrize(("option", "value"), [("--name", "My Hands"), ("--version", "latest"), ("--tag", "Hands:v1")])
def test_a_name_that_does_not_fit_is_refused(folder, option, value):
    result = dhvt("export", folder / "ckpt.pt", option, value)
    assert (result.exit_code, result.output.count("\n")) == (1, 1), result.output
    assert not (folder / "artifact").exists()


def test_a_model_folder_is_no_checkpoint(artifact_copy, tmp_path):
    for options, message in (
        ([], "is a model folder, which has its float32 graph; give its checkpoint"),
        (["--target", "int8", "--out", tmp_path / "other"], "--out is for a checkpoint"),
        (["--target", "int8", "--resize-mode", "pad"], "--resize-mode needs --target onnx, from a checkpoint"),
    ):
        result = dhvt("export", artifact_copy, *options)
        assert result.exit_code == 1
        assert message in result.output


def test_no_such_target(checkpoint, tmp_path):
    with pytest.raises(ExportError, match="no export target 'coreml'; choose one of onnx, explain, int8, tensorrt"):
        export_model(checkpoint, tmp_path / "artifact", ["onnx", "coreml"])
    with pytest.raises(ExportError, match="settings for int8, but the targets are onnx, explain, tensorrt"):
        export_model(checkpoint, tmp_path / "artifact", ["tensorrt"], settings={"onnx": OnnxSettings(), "int8": Int8Settings()})


def test_every_target_has_its_options_and_help():
    text = dhvt("export", "--help").output
    for name in TARGETS:
        assert load_target(name).help in " ".join(text.split())
        require_packages([name])  # all of them are in .[dev]
    for name in LAYOUTS:
        assert load_layout(name).help in " ".join(text.split())
        require_packages([name])


def test_the_card_holds_plain_values_alone(checkpoint, artifact_copy):
    artifact = export_model(checkpoint, artifact_copy, options=ExportOptions(resize_mode="pad"), command="mine")
    entry = artifact.card.provenance["exports"][0]
    assert json.loads(json.dumps(entry)) == entry
    assert entry["options"]["resize_mode"] == "pad"
    assert entry["settings"] == {"onnx": {"opset_version": 20}, "explain": {}}


def test_from_inside_the_model_folder(checkpoint, artifact_copy, monkeypatch):
    monkeypatch.chdir(artifact_copy)
    refused = dhvt("export", ".", "--target", "explain")
    assert (refused.exit_code, "is the current folder, which cannot be replaced" in refused.stderr) == (1, True)
    assert dhvt("export", ".", "--target", "triton").exit_code == 0
    assert not (artifact_copy / "triton").exists()
    assert (artifact_copy.parent / "triton").is_dir()
