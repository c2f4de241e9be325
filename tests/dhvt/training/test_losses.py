"""What is done less often than on a CPU, as on a GPU: losses are looked at, and checkpoints are written."""

import os
import signal

import torch
from click.testing import CliRunner

from dhvt.cli.main import main
from dhvt.model.checkpoint import load_checkpoint, save_checkpoint
from tests.dhvt.training.test_interruptions import rows

SMALL = ["--device", "cpu", "--batch-size", "16", "--model-option", "depth=1", "--model-option", "embed_dim=32"]


def train(data, out, *options):
    return CliRunner().invoke(main, ["train", "--data", str(data), "--out", str(out), *SMALL, *options])


def test_losses_that_are_not_checked_yet_change_nothing_and_let_no_nan_into_a_checkpoint(image_folder, tmp_path, monkeypatch):
    assert train(image_folder, tmp_path / "cpu", "--epochs", "2").exit_code == 0
    monkeypatch.setattr("dhvt.training.losses.steps_between_checks", lambda device: 50)
    assert train(image_folder, tmp_path / "gpu", "--epochs", "2").exit_code == 0
    cpu, gpu = (load_checkpoint(tmp_path / name / "ckpt.pt") for name in ("cpu", "gpu"))
    assert all(torch.equal(cpu.weights[name], weight) for name, weight in gpu.weights.items())
    assert [row["train_loss"] for row in rows(tmp_path / "cpu")] == [row["train_loss"] for row in rows(tmp_path / "gpu")]
    before = (tmp_path / "gpu" / "ckpt.pt").read_bytes()
    options = ["--epochs", "3", "--resume", "--change-recipe", "--lr", "1e30", "--warmup-epochs", "0"]
    result = train(image_folder, tmp_path / "gpu", *options)
    assert result.exit_code == 1
    assert "at step 7; the last checkpoint is untouched" in result.output
    assert (tmp_path / "gpu" / "ckpt.pt").read_bytes() == before


def test_short_epochs_are_not_all_saved_but_the_last(image_folder, tmp_path, monkeypatch):
    saved = []

    def save(checkpoint, path):
        saved.append((path.name, checkpoint.step))
        save_checkpoint(checkpoint, path)

    monkeypatch.setattr("dhvt.training.checkpoints.save_checkpoint", save)
    monkeypatch.setattr("dhvt.training.checkpoints.seconds_between_epochs_saved", lambda device: 1e6)
    assert train(image_folder, tmp_path, "--epochs", "3").exit_code == 0
    assert {step for name, step in saved if name == "ckpt.pt"} == {9}
    assert [row["epoch"] for row in rows(tmp_path)] == [1, 2, 3]
    assert load_checkpoint(tmp_path / "ckpt.pt").metrics["epoch"] == 3


def test_a_stop_between_two_checkpoints_is_saved_whenever_it_comes(image_folder, tmp_path, monkeypatch):
    """Here while it is decided that an epoch is too short to be saved."""

    def interrupted(device):
        os.kill(os.getpid(), signal.SIGINT)
        return 1e6

    monkeypatch.setattr("dhvt.training.checkpoints.seconds_between_epochs_saved", interrupted)
    result = train(image_folder, tmp_path, "--epochs", "3")
    assert (result.exit_code, "stopped; go on with the same command" in result.output) == (130, True)
    assert load_checkpoint(tmp_path / "ckpt.pt").metrics["epoch"] == 1
