"""Training: :func:`train` opens a run, and :class:`Trainer` is its loop.

What is drawn at random is a function of the seed and the step, so a checkpoint holds no generator states: a resumed run
repeats exactly what an unbroken one would have done.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from dhvt.data.statistics import is_uneven
from dhvt.errors import ConfigError, DataError, TrainError
from dhvt.evaluation.calibration import describe_limit
from dhvt.model.checkpoint import Checkpoint
from dhvt.model.factory import size_multiple
from dhvt.training.broken_images import BrokenImages
from dhvt.training.checkpoints import CheckpointWriter, RunRecord
from dhvt.training.config import Recipe, RunOptions
from dhvt.training.dataset import Batches, build_loader, build_sampler
from dhvt.training.distributed import any_process
from dhvt.training.full_size_statistics import FullSizeStatistics
from dhvt.training.initialize import create_training_model
from dhvt.training.metrics_log import append_metrics
from dhvt.training.nodes import lost_processes_named
from dhvt.training.progress import EpochProgress, log
from dhvt.training.report import report_is_due, write_run_report
from dhvt.training.resume import new_record, resume
from dhvt.training.run import CHECKPOINT_NAME, LOG_NAME, Run, open_run
from dhvt.training.run_file import CONFIG_NAME, write_config
from dhvt.training.sampler import EpochSampler
from dhvt.training.signals import StopRequest
from dhvt.training.step import TrainState
from dhvt.training.storage import open_validation_images
from dhvt.training.tracking import track_steps
from dhvt.training.transforms import BatchTransform
from dhvt.training.validation import Validation, validate


def train(options: RunOptions, recipe: Recipe | None = None, *, command: str = "") -> Checkpoint:
    """Trains a model, or resumes a run; what ``dhvt train`` does::

        from pathlib import Path

        from dhvt.training.config import Recipe, RunOptions
        from dhvt.training.trainer import train

        checkpoint = train(RunOptions(data="images/", out=Path("runs/mine")), Recipe.preset("short", epochs=3))

    Args:
        options: the images, the model, where the run goes and on what.
        recipe: how to train; by default the preset that ``options.recipe`` names.
        command: the command line, for the record.

    Returns:
        The last checkpoint, which is also at ``options.out / "ckpt.pt"``.

    Raises:
        ConfigError, DataError, CheckpointError, TrainError: see their classes.
        KeyboardInterrupt: after Ctrl-C; after the first one with the checkpoint written.
    """
    try:
        with lost_processes_named(command, options.out / CHECKPOINT_NAME):
            return _train(options, Recipe.preset(options.recipe) if recipe is None else recipe, command)
    except torch.OutOfMemoryError as error:
        raise TrainError(
            f"the GPU's memory is full ({str(error).partition('. ')[0]}); give --accumulate {2 * options.accumulate}, which "
            "needs about half of it, and --resume where there is a checkpoint; or train on smaller images (--img-size)"
        ) from error


def _train(options: RunOptions, recipe: Recipe, command: str) -> Checkpoint:
    with open_run(options, recipe, command) as run:
        options = run.options
        sampler = build_sampler(run)
        loader = build_loader(run, sampler)
        state = create_state(run, sampler)
        record = resume(run, state) if options.resume else new_record(run)
        if options.freeze and options.init is None and not options.pretrained and not state.step:
            raise ConfigError("--freeze without a checkpoint to resume needs --init or --pretrained")
        if run.is_writer:
            kept_name = None if record.model_name == options.model_name else record.model_name  # of the command that is resumed
            write_config(options.out / CONFIG_NAME, replace(options, name=options.name or kept_name), run.recipe)
        trainer = Trainer(run, state, record, loader, sampler)
        checkpoint = trainer.train()
        if trainer.validation is not None and run.accelerator.is_main_process:
            write_run_report(run, checkpoint, trainer.validation)
            if (warning := describe_limit(trainer.validation.temperature, trainer.validation.evaluation.images)) is not None:
                log(warning)
        run.accelerator.end_training()
        return checkpoint


def create_state(run: Run, sampler: EpochSampler) -> TrainState:
    """The run's model and its optimizers before the first step."""
    model = create_training_model(run)
    recipe = replace(run.recipe, batch_size=sampler.batch_size)  # of fewer images, and so is its learning rate
    transform = BatchTransform(
        recipe,
        run.preprocess,
        run.accelerator.device,
        num_classes=len(run.classes),
        size_multiple=size_multiple(run.config),
    )
    return TrainState(
        model,
        recipe,
        run.accelerator,
        transform,
        steps_per_epoch=len(sampler),
        accumulate=run.options.accumulate,
        is_compiled=_is_compiled(run),
        class_weights=run.class_weights,
    )


def _is_compiled(run: Run) -> bool:
    """As ``--compile`` says; without it on CUDA, where there is a C compiler, which Triton needs."""
    if run.options.compile is not None or run.accelerator.device.type != "cuda":
        return bool(run.options.compile)
    found = any(map(shutil.which, (os.environ.get("CC", ""), "gcc", "clang", "cc")))
    if not found:
        log("there is no C compiler, so the model is not compiled, and trains slower; install gcc")
    return found


class Trainer:
    """The loop over a run's epochs: their steps, then a checkpoint, then a validation if one is due.

    Attributes:
        validation: the last one in this process's life.
    """

    def __init__(self, run: Run, state: TrainState, record: RunRecord, loader: Batches, sampler: EpochSampler) -> None:
        self.run, self.state, self.record, self.loader, self.sampler = run, state, record, loader, sampler
        self.checkpoints = CheckpointWriter(run, state, record)
        self.broken = BrokenImages(run.options.on_broken, run.accelerator, run.broken)
        self.validation_images = open_validation_images(run)
        self.statistics = FullSizeStatistics(run, self.broken)
        self.validation: Validation | None = None

    def train(self) -> Checkpoint:
        """Trains to the end or to the first Ctrl-C; returns the last checkpoint written.

        Raises:
            TrainError: the loss or a weight is not finite.
            KeyboardInterrupt: it was asked to stop; the checkpoint is written.
        """
        stop = StopRequest()
        with stop.listening():
            checkpoint = self._finish_resumed_epoch()
            if self._any_process(stop.requested):
                raise KeyboardInterrupt
            while not self.is_finished:
                self._train_epoch(stop)
                checkpoint = self._save_after_epoch(stop)
                if self._validation_is_due():
                    self._validate()
                    checkpoint = self._save_after_epoch(stop)
        return checkpoint

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are done, or the validation loss has not fallen for ``patience`` of them.

        Each process computes the loss for itself, and on other hardware it may differ in the last digits. So they agree on
        it, and all of them have to ask at the same point.
        """
        patience = self.run.recipe.patience
        if self.state.is_finished or not patience:
            return self.state.is_finished
        return self._any_process(self.record.epochs_without_gain() >= patience)

    def _save_after_epoch(self, stop: StopRequest) -> Checkpoint:
        """Saves, unless epochs are so short that saving each would take a good part of the time; the last one always.

        Raises:
            KeyboardInterrupt: a process was asked to stop; the checkpoint is written.
        """
        stops = self._any_process(stop.requested)  # a signal that comes after this counts the next time
        is_due = self._any_process(stops or self.is_finished or self.checkpoints.is_due_after_epoch)
        checkpoint = self.checkpoints.save() if is_due else self.checkpoints.build()
        if stops:
            self.run.accelerator.wait_for_everyone()  # who ends first makes torchrun and Slurm signal the one that still writes
            raise KeyboardInterrupt
        return checkpoint

    def _finish_resumed_epoch(self) -> Checkpoint:
        """Validates and reports what the checkpoint of a resumed run has not."""
        if self._validation_is_due():
            log(f"epoch {self.state.epochs_done} was saved, but not validated")
            self._validate()
            return self.checkpoints.save()
        if not self.is_finished:
            return self.checkpoints.build()
        if not self._any_process(self.run.accelerator.is_main_process and report_is_due(self.run.options.out)):
            log("this run is finished; nothing to do")
            return self.checkpoints.build()
        log("this run is finished, but for its report")
        self._measure()
        return self.checkpoints.save()

    def _train_epoch(self, stop: StopRequest) -> None:
        """Trains to the end of the epoch, or to a request to stop."""
        state = self.state
        state.model.train(not self.run.options.freeze)  # a frozen BatchNorm keeps its statistics
        self.sampler.epoch, self.sampler.first = state.epochs_done, state.step % len(self.sampler)
        started = time.monotonic()
        with EpochProgress(state, self.sampler.batch_size) as progress:
            for batch in self.loader:
                self.broken.report(*batch.broken)
                if not len(batch.labels):
                    raise DataError(f"not one image of a whole batch can be read; the first is {batch.broken[0]}")
                state.train_batch(batch)
                is_checked = state.losses.is_due
                if is_checked:
                    state.losses.check()
                progress.update()
                track_steps(self.run.accelerator, state)
                if not is_checked and self.run.accelerator.num_processes > 1:
                    continue  # to agree, the processes would have to wait for their devices
                if self._any_process(stop.requested):
                    break
                if not state.is_between_epochs and self._any_process(self.checkpoints.is_due):
                    self.checkpoints.save()
        self.record.train_seconds += time.monotonic() - started
        self.record.epoch_metrics = progress.metrics() if state.is_between_epochs else {}

    def _validation_is_due(self) -> bool:
        """Whether an epoch that is to be validated has just ended, or had when this run was interrupted."""
        epoch = self.state.epochs_done
        if not self.state.step or not self.state.is_between_epochs or self.record.metrics.get("epoch") == epoch:
            return False
        return epoch % self.run.options.val_every == 0 or epoch >= self.run.recipe.epochs

    def _validate(self) -> None:
        """Validates the epoch that has ended; logs the result."""
        record, state = self.record, self.state
        train_metrics = record.epoch_metrics
        measured = self._measure().to_metrics()
        metrics = {
            "epoch": state.epochs_done,
            "lr": state.learning_rate(),
            **train_metrics,
            **measured,
            "val_weights": state.averaged_or_last,
            "train_seconds": record.train_seconds,
        }
        is_best = record.note_validation(metrics)
        numbers = {name: value for name, value in metrics.items() if not isinstance(value, str)}
        self.run.accelerator.log(numbers, step=state.step)
        if self.run.is_writer and train_metrics:
            append_metrics(self.run.options.out / LOG_NAME, metrics)
        training = "loss {train_loss:.3f}, {images_per_s:.0f} images/s, ".format(**train_metrics) if train_metrics else ""
        log(
            f"epoch {state.epochs_done}: {training}validation of the {state.averaged_or_last} weights: "
            f"loss {measured['val_loss']:.3f}, top-1 {measured['val_top1']:.2f} % of {measured['val_images']} images"
            f"{self._describe_classes(measured)}{', the best so far' if is_best else ''}"
        )
        if is_best:
            self.checkpoints.keep_best()
        if self.is_finished and not state.is_finished:
            record.metrics["val_chose_weights"] = True
            log(f"stopped: the validation loss has not fallen since epoch {record.best['epoch']} (--patience)")

    def _describe_classes(self, measured: Mapping[str, Any]) -> str:
        """What counts every class alike, where the classes are uneven."""
        if not is_uneven(self.run.images.train):
            return ""
        return ", balanced accuracy {val_balanced_accuracy:.2f} %, macro-F1 {val_macro_f1:.2f} %".format(**measured)

    def _measure(self) -> Validation:
        self.statistics.update(self.state)
        validation = validate(self.run, self.state.averaged, self.broken, self.validation_images)
        self.validation = validation
        self.record.temperature = validation.temperature
        self.record.metrics = self.record.metrics | validation.to_metrics()
        return validation

    def _any_process(self, flag: bool) -> bool:
        return any_process(self.run.accelerator, flag)
