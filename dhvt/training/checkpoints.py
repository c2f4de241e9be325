"""``ckpt.pt`` of a run: what is in it and when it is written."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import torch

from dhvt.model.checkpoint import Checkpoint, save_checkpoint
from dhvt.training.run import CHECKPOINT_NAME, Run
from dhvt.training.step import TrainState


@dataclass
class RunRecord:
    """What a run has measured so far, and the commands that it came from.

    Args:
        commands: each with the step from which on it trained.
        metrics: of the last validation.
        epoch_metrics: training loss and accuracy of the last epoch, while it is not validated.
        temperature: fitted in the last validation.
        train_seconds: time in epochs.
    """

    commands: list[dict[str, Any]]
    metrics: dict[str, Any] = field(default_factory=dict)
    epoch_metrics: dict[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    train_seconds: float = 0.0


def seconds_between_epochs_saved(device: torch.device) -> float:
    """The least time from one checkpoint after an epoch to the next: none on a CPU, where saving takes little of an epoch."""
    return 0.0 if device.type == "cpu" else 30.0


class CheckpointWriter:
    """Writes a run's checkpoint; the main process does, and the others only check their weights."""

    def __init__(self, run: Run, state: TrainState, record: RunRecord) -> None:
        self.run, self.state, self.record = run, state, record
        self.path = run.options.out / CHECKPOINT_NAME
        self._saved_at = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether the last one is older than ``--checkpoint-minutes``."""
        return time.monotonic() - self._saved_at > 60 * self.run.options.checkpoint_minutes

    @property
    def is_due_after_epoch(self) -> bool:
        """Whether an epoch that has ended, or its validation, is to be saved."""
        return time.monotonic() - self._saved_at >= seconds_between_epochs_saved(self.run.accelerator.device)

    def save(self) -> Checkpoint:
        """Replaces the file by the present state, and returns that.

        Raises:
            TrainError: a weight is not finite; the file stays.
            CheckpointError: it cannot be written; the file stays.
        """
        self.state.require_finite()
        checkpoint = self.build()
        if self.run.accelerator.is_main_process:
            save_checkpoint(checkpoint, self.path)
        self._saved_at = time.monotonic()
        return checkpoint

    def build(self) -> Checkpoint:
        """The present state as a checkpoint."""
        run, record = self.run, self.record
        return Checkpoint(
            name=run.options.variant,
            config=run.config,
            classes=run.classes,
            preprocess=run.preprocess.to_dict(),
            model_name=run.options.model_name,
            temperature=record.temperature,
            recipe=run.recipe.to_dict(),
            metrics=record.metrics,
            epoch_metrics=record.epoch_metrics,
            provenance=self._provenance(),
            data=run.data,
            frozen=run.options.freeze,
            **self.state.to_dict(),
        )

    def _provenance(self) -> dict[str, Any]:
        accelerator = self.run.accelerator
        return {
            "commands": self.record.commands,
            "device": str(accelerator.device),
            "processes": accelerator.num_processes,
            "precision": accelerator.mixed_precision,
            "train_seconds": round(self.record.train_seconds),
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "torchvision", "timm", "numpy", "pillow")},
        }
