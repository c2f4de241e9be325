"""Sending metrics to TensorBoard, Weights & Biases, MLflow and others, through Accelerate."""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType

from dhvt.errors import ConfigError
from dhvt.training.config import Recipe, RunOptions

_PROJECT = "tracker"


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
    return "pip install -e '.[tracker]'" if tracker == "tensorboard" else f"pip install {tracker}"


def start_tracking(accelerator: Accelerator, options: RunOptions, recipe: Recipe) -> None:
    """Opens the tracker, if there is one, and tells it the recipe."""
    if options.tracker:
        accelerator.init_trackers(_PROJECT, {name: str(value) for name, value in recipe.to_dict().items()})
