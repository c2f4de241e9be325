"""Runs that are killed or asked to stop: in mid-epoch, between a checkpoint and its validation, before there is one."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from dhvt.model.checkpoint import load_checkpoint
from dhvt.training import trainer
from dhvt.training.step import TrainState
from tests.dhvt.training.commands import SMALL, arguments, interrupt_in_mid_epoch, run, start, wait_until


def test_killed_in_mid_epoch_and_resumed_is_as_if_never_stopped(image_folder, unbroken, tmp_path):
    options = ["--epochs", "2", "--drop-path-rate", "0.2", "--cutmix", "1", "--mix-prob", "0.5", "--checkpoint-minutes", "0"]
    process = start(image_folder, tmp_path, *options)
    assert interrupt_in_mid_epoch(process, tmp_path / "ckpt.pt", signal.SIGKILL) == -signal.SIGKILL
    assert load_checkpoint(tmp_path / "ckpt.pt").step < 6
    assert run(image_folder, tmp_path, *options, "--resume").exit_code == 0
    resumed = load_checkpoint(tmp_path / "ckpt.pt")
    for kind in ("weights", "ema"):
        expected, got = getattr(unbroken[1], kind), getattr(resumed, kind)
        assert all(torch.equal(expected[name], got[name]) for name in expected), kind
    assert rows(tmp_path) == rows(unbroken[2])


def test_a_second_training_in_the_folder_is_refused_while_the_first_runs(image_folder, tmp_path):
    process = start(image_folder, tmp_path, *SMALL, "--epochs", "500", "--checkpoint-minutes", "0")
    assert wait_until((tmp_path / "ckpt.pt").exists), "no checkpoint appeared"
    refused = run(image_folder, tmp_path, *SMALL, "--epochs", "500", "--resume")
    assert refused.exit_code == 1
    assert f"another process trains into {tmp_path}" in refused.output
    assert interrupt_in_mid_epoch(process, tmp_path / "ckpt.pt", signal.SIGINT) == 130, "the first was disturbed"
    stopped = load_checkpoint(tmp_path / "ckpt.pt").step
    epochs = str(stopped // 3 + 1)
    assert run(image_folder, tmp_path, *SMALL, "--epochs", epochs, "--resume", "--change-recipe").exit_code == 0
    assert load_checkpoint(tmp_path / "ckpt.pt").step > stopped
    assert not (tmp_path / ".lock").exists()


def test_ctrl_c_leaves_a_usable_checkpoint(image_folder, tmp_path):
    process = start(image_folder, tmp_path, "--epochs", "50", "--checkpoint-minutes", "0")
    assert interrupt_in_mid_epoch(process, tmp_path / "ckpt.pt", signal.SIGINT) == 130
    assert load_checkpoint(tmp_path / "ckpt.pt").build_model().num_classes == 3


def test_a_signal_to_the_whole_group_leaves_a_checkpoint_too(image_folder, tmp_path):
    """As service managers and launchers send it: also to the processes that decode, which the last step still needs."""
    options = ["--epochs", "500", "--val-every", "500", "--num-workers", "2", "--model-option", "depth=1"]
    command = [sys.executable, "-m", "dhvt.cli", *arguments(image_folder, tmp_path, *options)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, text=True)
    assert wait_until((tmp_path / "ckpt.pt").exists), "no checkpoint appeared"
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert load_checkpoint(tmp_path / "ckpt.pt").step >= 3


class Killed(BaseException):
    pass


def rows(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: row[name] for name in ("epoch", "lr", "train_loss", "train_top1", "val_top1", "temperature")} for row in lines
    ]


def test_a_kill_in_the_validation_loses_no_epoch(image_folder, tmp_path, monkeypatch):
    options = [*SMALL, "--epochs", "3"]
    assert run(image_folder, tmp_path / "unbroken", *options).exit_code == 0
    validate = trainer.validate

    def killed_after_the_first(run, *arguments):
        if "killed" in str(run.options.out) and (run.options.out / "metrics.jsonl").exists():
            raise Killed
        return validate(run, *arguments)

    monkeypatch.setattr(trainer, "validate", killed_after_the_first)
    with pytest.raises(Killed):
        run(image_folder, tmp_path / "killed", *options)
    monkeypatch.undo()
    saved = load_checkpoint(tmp_path / "killed" / "ckpt.pt")
    assert (saved.step, saved.metrics["epoch"]) == (6, 1)
    result = run(image_folder, tmp_path / "killed", *options, "--resume")
    assert result.exit_code == 0, result.output
    assert "epoch 2 was saved, but not validated" in result.output
    assert rows(tmp_path / "killed") == rows(tmp_path / "unbroken")
    unbroken, resumed = (load_checkpoint(tmp_path / name / "ckpt.pt") for name in ("unbroken", "killed"))
    assert all(torch.equal(unbroken.ema[name], weight) for name, weight in resumed.ema.items())
    assert resumed.epoch_metrics == {}


def test_a_kill_in_the_last_validation_loses_neither_it_nor_the_report(image_folder, tmp_path, monkeypatch):
    def killed(*arguments):
        raise Killed

    options = [*SMALL, "--epochs", "1"]
    monkeypatch.setattr(trainer, "validate", killed)
    with pytest.raises(Killed):
        run(image_folder, tmp_path, *options)
    monkeypatch.undo()
    assert run(image_folder, tmp_path, *options, "--resume").exit_code == 0
    assert [row["epoch"] for row in rows(tmp_path)] == [1]
    assert (tmp_path / "report" / "curves.png").exists()


def test_a_stop_before_the_first_checkpoint_promises_none(image_folder, tmp_path, monkeypatch):
    def interrupted(state, batch):
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainState, "train_batch", interrupted)
    result = run(image_folder, tmp_path, *SMALL, "--epochs", "2")
    assert result.exit_code == 130
    assert "stopped before the first checkpoint: nothing is saved" in result.output
    assert "--resume" not in result.output


STOPPED_AFTER_VALIDATION = """
import os, signal, sys
from dhvt.cli.main import main
from dhvt.training import trainer

validate = trainer.validate

def stopped(*arguments):
    result = validate(*arguments)
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGINT)
    return result

trainer.validate = stopped
main(sys.argv[1:])
"""


def test_a_stop_of_one_process_after_the_validation_stops_all(image_folder, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    program = [sys.executable, "-c", STOPPED_AFTER_VALIDATION, *arguments(image_folder, tmp_path, *SMALL, "--epochs", "3")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run([*torchrun, *program], check=False, capture_output=True, text=True, timeout=280, env=environment)
    assert "stopped; go on with the same command and --resume" in result.stdout, result.stderr
    saved = load_checkpoint(tmp_path / "ckpt.pt")
    assert (saved.step, saved.metrics["epoch"]) == (3, 1)
