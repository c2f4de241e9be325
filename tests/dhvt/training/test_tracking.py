"""``--tracker``."""

import pytest

from dhvt.model.checkpoint import load_checkpoint
from tests.dhvt.training.commands import run


def test_metrics_go_to_tensorboard(image_folder, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert run(image_folder, tmp_path, "--epochs", "1", "--tracker", "tensorboard").exit_code == 0
    events = EventAccumulator(str(tmp_path / "tracker")).Reload()
    assert events.Scalars("val_top1")[0].value == pytest.approx(load_checkpoint(tmp_path / "ckpt.pt").metrics["val_top1"])


@pytest.mark.parametrize(
    ("tracker", "message"),
    [("tensorboard", "pip install -e '.[tracker]'"), ("wandb", "pip install wandb"), ("tensorbored", "choose one of")],
)
def test_a_tracker_that_is_not_installed_or_unknown_is_refused_before_training(
    image_folder, tmp_path, monkeypatch, tracker, message
):
    monkeypatch.setattr("dhvt.training.tracking.get_available_trackers", lambda: [])
    result = run(image_folder, tmp_path, "--epochs", "1", "--tracker", tracker)
    assert result.exit_code == 1
    assert message in result.output
    assert not (tmp_path / "ckpt.pt").exists()
