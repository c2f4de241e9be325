"""A training that holds images out, and its export, which keeps them as the model's reference."""

from click.testing import CliRunner

from dhvt.artifact import load_artifact
from dhvt.cli.main import main
from dhvt.confidence.reference import load_reference
from dhvt.data.reopen import reopen_reference
from dhvt.model.checkpoint import load_checkpoint
from tests.conftest import CLASSES
from tests.dhvt.training.commands import SMALL, run


def test_what_a_training_held_out_is_the_reference_of_its_export(image_folder, graphs_once, tmp_path, monkeypatch):
    options = [*SMALL, "--epochs", "1", "--calibration-fraction", "0.2"]
    result = run(image_folder, tmp_path, *options)
    assert result.exit_code == 0, result.output
    data = load_checkpoint(tmp_path / "ckpt.pt").data
    assert [data[kind]["images"] for kind in ("training", "validation", "reference")] == [42, 6, 12]
    refused = run(image_folder, tmp_path, *SMALL, "--epochs", "1", "--calibration-fraction", "0.1", "--resume")
    assert "calibration_fraction 0.2, now 0.1" in refused.output
    command = ["export", str(tmp_path), "--data"]
    result = CliRunner().invoke(main, [*command, str(image_folder)])
    assert result.exit_code == 0, result.output
    assert "measuring 12 reference images in " in result.stderr
    assert "12 reference images, in fp32" in result.output
    artifact = load_artifact(tmp_path / "artifact")
    assert artifact.card.reference.items() >= data["reference"].items()
    labels = reopen_reference(image_folder, CLASSES, data, 0).labels
    assert load_reference(artifact).labels.tolist() == labels.tolist()
    monkeypatch.setenv("DHVT_THREADS", "many")
    assert CliRunner().invoke(main, [*command, str(image_folder)]).exit_code == 1
    assert load_artifact(tmp_path / "artifact").card == artifact.card
    monkeypatch.delenv("DHVT_THREADS")
    without = CliRunner().invoke(main, command[:2])
    assert "no reference images, though the training held out some: there is no --data" in without.output
    assert load_artifact(tmp_path / "artifact").card.reference == {}
