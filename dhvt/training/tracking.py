"""Sending metrics to TensorBoard, Weights & Biases, MLflow and others, through Accelerate."""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType

from dhvt.errors import ConfigError
from dhvt.training.config import Recipe, RunOptions
from dhvt.training.step import TrainState

_FOLDER = "tracker"  # of TensorBoard, in OUT
_NAME_OF_RUN = {"wandb": "name", "mlflow": "run_name", "clearml": "task_name", "swanlab": "experiment_name", "trackio": "name"}
"""By tracker, the argument of its start that names a run; others take none from Accelerate."""

STEPS = 50
"""Steps whose mean loss is sent as one value."""


def tracking_options(options: RunOptions) -> dict[str, Any]:
    """Arguments of ``Accelerator`` for ``--tracker``; none without it.

    Raises:
        ConfigError: the tracker is unknown or not installed.
    """
    tracker = options.tracker
    if not tracker:
        return {}
    known = [str(kind) for kind in LoggerType if kind != LoggerType.ALL]
    if tracker not in known:
        raise ConfigError(f"--tracker {tracker!r} is unknown; choose one of {', '.join(known)}")
    if tracker not in map(str, get_available_trackers()):
        raise ConfigError(f"--tracker {tracker}: not installed here; {_install_command(tracker)}, or omit --tracker")
    return {"log_with": tracker, "project_dir": options.out}


def _install_command(tracker: str) -> str:
    return "pip install 'dhvt-serve[tracker]'" if tracker == "tensorboard" else f"pip install {tracker}"


def start_tracking(accelerator: Accelerator, options: RunOptions, recipe: Recipe) -> None:
    """Opens the tracker, if there is one, with the recipe; the project has the model's name, the run that of its folder."""
    if not options.tracker:
        return
    argument = _NAME_OF_RUN.get(options.tracker)
    project = _FOLDER if options.tracker == "tensorboard" else options.model_name
    settings = {options.tracker: {argument: options.out.resolve().name}} if argument else {}
    accelerator.init_trackers(project, {name: str(value) for name, value in recipe.to_dict().items()}, settings)


def track_steps(accelerator: Accelerator, state: TrainState) -> None:
    """Sends the mean loss and the learning rate of the last :data:`STEPS` steps, once their losses have been looked at."""
    recent = state.losses.recent
    if len(recent) >= STEPS:
        accelerator.log({"step_loss": sum(recent) / len(recent), "step_lr": state.learning_rate()}, step=state.step)
        recent.clear()
