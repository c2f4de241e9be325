"""``ckpt.pt`` and ``best.pt`` of a run: what is in them and when they are written."""

from __future__ import annotations

import math
import platform
import time
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import torch

from dhvt.model.checkpoint import Checkpoint, save_checkpoint
from dhvt.training.run import BEST_NAME, CHECKPOINT_NAME, Run
from dhvt.training.step import TrainState


@dataclass
class RunRecord:
    """What a run has measured so far, and the commands that it came from.

    Args:
        commands: each with the step from which on it trained.
        model_name: the name that the user gave the model, now or when the run began, else one made of the data's.
        metrics: of the last validation.
        best: epoch and validation loss of the best validation.
        epoch_metrics: training loss and accuracy of the last epoch, while it is not validated.
        temperature: fitted in the last validation.
        train_seconds: time in epochs.
    """

    commands: list[dict[str, Any]]
    model_name: str
    metrics: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    epoch_metrics: dict[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    train_seconds: float = 0.0

    def note_validation(self, metrics: dict[str, Any]) -> bool:
        """Takes over what was measured; returns whether its loss is the lowest so far."""
        self.metrics, self.epoch_metrics = metrics, {}
        loss = metrics["val_loss"]
        is_best = math.isfinite(loss) and (not self.best or loss < self.best["val_loss"])
        if is_best:
            self.best = {"epoch": metrics["epoch"], "val_loss": loss}
        return is_best

    def epochs_without_gain(self) -> int:
        """Epochs from the best validation to the last."""
        return int(self.metrics["epoch"] - self.best["epoch"]) if self.best and "epoch" in self.metrics else 0


def seconds_between_epochs_saved(device: torch.device) -> float:
    """The least time from one checkpoint after an epoch to the next: none on a CPU, where saving takes little of an epoch."""
    return 0.0 if device.type == "cpu" else 30.0


class CheckpointWriter:
    """Writes a run's checkpoints, where this process writes; the others only check their weights."""

    def __init__(self, run: Run, state: TrainState, record: RunRecord) -> None:
        self.run, self.state, self.record = run, state, record
        self.path = run.options.out / CHECKPOINT_NAME
        self._saved_at = time.monotonic()
        self._best: Checkpoint | None = None

    @property
    def is_due(self) -> bool:
        """Whether the last one is older than ``--checkpoint-minutes``."""
        return time.monotonic() - self._saved_at > 60 * self.run.options.checkpoint_minutes

    @property
    def is_due_after_epoch(self) -> bool:
        """Whether an epoch that has ended, or its validation, is to be saved."""
        return time.monotonic() - self._saved_at >= seconds_between_epochs_saved(self.run.accelerator.device)

    def save(self) -> Checkpoint:
        """Replaces the file by the present state, and returns that; before it ``best.pt``, if there is a new best.

        Raises:
            TrainError: a weight is not finite; the files stay.
            CheckpointError: one cannot be written; it stays.
        """
        self.state.require_finite()
        checkpoint = self.build()
        if self.run.is_writer:
            if self._best is not None:
                if not self.path.exists():  # a best one alone could not be resumed
                    save_checkpoint(checkpoint, self.path)
                save_checkpoint(self._best, self.path.with_name(BEST_NAME))
            save_checkpoint(checkpoint, self.path)
        self._best = None
        self._saved_at = time.monotonic()
        return checkpoint

    def keep_best(self) -> None:
        """Keeps a copy of the weights that were just validated, which the next :meth:`save` writes as ``best.pt``.

        It has not got what only resuming needs. It is written right before the checkpoint whose record names it: after a
        crash between the two the resumed run validates the epoch again, and writes the same file again.
        """
        checkpoint = self.build()
        weights = checkpoint.weights if checkpoint.ema is None else checkpoint.ema
        weights = {name: value.clone() for name, value in weights.items()}
        metrics = checkpoint.metrics | {"val_chose_weights": True}
        self._best = replace(checkpoint, weights=weights, ema=None, optimizers=[], scaler=None, metrics=metrics)

    def build(self) -> Checkpoint:
        """The present state as a checkpoint."""
        run, record = self.run, self.record
        return Checkpoint(
            name=run.options.variant,
            config=run.config,
            classes=run.classes,
            preprocess=run.preprocess.to_dict(),
            model_name=record.model_name,
            temperature=record.temperature,
            recipe=run.recipe.to_dict(),
            metrics=record.metrics,
            best=record.best,
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
            "num_workers": self.run.options.num_workers,
            "precision": accelerator.mixed_precision,
            "train_seconds": round(self.record.train_seconds),
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "torchvision", "timm", "numpy", "pillow")},
        }
