"""What a training is told besides its data, model and recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """One run: where it starts, where it goes, on what it runs.

    Args:
        out: folder for ``ckpt.pt`` and ``metrics.jsonl``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        amp: ``auto``, ``bf16``, ``fp16`` or ``off``; auto is bf16 where the processor multiplies it natively.
        accumulate: parts that each process's share of a batch is cut into, for want of memory; gradients are added
            up. The recipe's batch size stays that of one optimizer step, whatever the processes and parts.
        num_workers: processes that decode images, and as many those of a validation; 0 decodes in the training process.
        cache: keep decoded images in memory, from the second epoch on; for a recipe with ``crop = "pad"``.
        tracker: where metrics also go, by Accelerate's name: ``tensorboard``, ``wandb``, ``mlflow``, …
        checkpoint_minutes: a checkpoint is also written in mid-epoch when the last is this old.
        val_every: validate after every so many epochs, and after the last.
        stop_on_broken: whether an image that cannot be read ends the training.
        resume: go on from ``out/ckpt.pt``.
        init: a checkpoint, or an authors' file, to take the weights from.
        freeze: train the classifier alone.
        change_recipe: resume although the recipe differs from the checkpoint's, as to train for more epochs; another optimizer,
            batch size, seed, repeats or drop path is still refused.
        val_fraction: of the training images, that the validation images are; None where they are others. For the
            record, so that export can hold out the same.
        command: the command line, for the record.
    """

    out: Path
    device: str = "auto"
    amp: str = "auto"
    accumulate: int = 1
    num_workers: int = 0
    cache: bool = False
    tracker: str = ""
    checkpoint_minutes: float = 5.0
    val_every: int = 1
    stop_on_broken: bool = True
    resume: bool = False
    init: Path | None = None
    freeze: bool = False
    change_recipe: bool = False
    val_fraction: float | None = None
    command: str = ""
