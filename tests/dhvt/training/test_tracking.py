"""``--tracker``."""

from types import SimpleNamespace

import pytest

from dhvt.model.checkpoint import load_checkpoint
from dhvt.training.config import Recipe, RunOptions
from dhvt.training.tracking import start_tracking
from tests.dhvt.training.commands import SMALL, run


def test_metrics_go_to_tensorboard(image_folder, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    steps = ["--batch-size", "2", "--epochs", "2"]  # 27 an epoch
    assert run(image_folder, tmp_path, *SMALL, *steps, "--tracker", "tensorboard").exit_code == 0
    events = EventAccumulator(str(tmp_path / "tracker")).Reload()
    assert [event.step for event in events.Scalars("step_loss")] == [50]
    assert 0 < events.Scalars("step_loss")[0].value < 5
    assert events.Scalars("step_lr")[0].value > 0
    assert events.Scalars("val_top1")[-1].value == pytest.approx(load_checkpoint(tmp_path / "ckpt.pt").metrics["val_top1"])


@pytest.mark.parametrize(("tracker", "argument"), [("wandb", "name"), ("mlflow", "run_name")])
def test_a_tracker_is_told_the_models_name_and_the_runs(tmp_path, tracker, argument):
    told = []
    accelerator = SimpleNamespace(init_trackers=lambda *arguments: told.append(arguments))
    start_tracking(accelerator, RunOptions(data="hands", out=tmp_path / "third", tracker=tracker), Recipe(lr=0.5))
    project, recipe, settings = told[0]
    assert (project, recipe["lr"], settings) == ("hands", "0.5", {tracker: {argument: "third"}})


@pytest.mark.parametrize(
    ("tracker", "message"),
    [("tensorboard", "pip install 'dhvt-serve[tracker]'"), ("wandb", "pip install wandb"), ("tensorbored", "choose one of")],
)
def test_a_tracker_that_is_not_installed_or_unknown_is_refused_before_training(
    image_folder, tmp_path, monkeypatch, tracker, message
):
    monkeypatch.setattr("dhvt.training.tracking.get_available_trackers", lambda: [])
    result = run(image_folder, tmp_path, "--epochs", "1", "--tracker", tracker)
    assert result.exit_code == 1
    assert message in result.output
    assert not (tmp_path / "ckpt.pt").exists()
