"""The training loop. What is drawn at random is a function of the seed and the step, so a checkpoint holds no
generator states: a resumed run repeats exactly what an unbroken one would have done."""

from __future__ import annotations

import platform
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from dhvt.configuration import from_dict
from dhvt.data.preprocess import Preprocess
from dhvt.data.record import record_training_data
from dhvt.data.splits import TrainingData, open_training_data
from dhvt.data.statistics import describe_balance
from dhvt.errors import CheckpointError, DataError, TrainError
from dhvt.evaluation.metrics import Evaluation, Outputs, calibrate
from dhvt.model.checkpoint import Checkpoint, load_checkpoint, require_equal, save_checkpoint
from dhvt.model.factory import build, configure, size_multiple
from dhvt.training.augment import EpochSampler, TrainingImages, collate, seed_everything
from dhvt.training.config import Recipe, RunOptions
from dhvt.training.distributed import open_accelerator, synchronize_batchnorm
from dhvt.training.initialize import freeze_body, initialize
from dhvt.training.metrics_log import append_metrics, read_history
from dhvt.training.run_file import CONFIG_NAME, write_config
from dhvt.training.signals import StopRequest, leave_stopping_to_the_parent
from dhvt.training.step import Learner
from dhvt.training.validation import collect_validation

CHECKPOINT_NAME = "ckpt.pt"
LOG_NAME = "metrics.jsonl"


class Trainer:
    """Trains one model; :func:`train` is the way in."""

    def __init__(
        self,
        config: dict[str, Any],
        images: TrainingData,
        preprocess: Preprocess,
        recipe: Recipe,
        options: RunOptions,
        command: str,
    ) -> None:
        name, source, val = options.variant, images.train, images.val
        self.name, self.val, self.preprocess, self.recipe, self.options = name, val, preprocess, recipe, options
        self.classes = list(source.classes)
        self.data = record_training_data(images)
        tracking = {"log_with": options.tracker, "project_dir": options.out} if options.tracker else {}
        self.accelerator = open_accelerator(options.device, options.amp, **tracking)
        self.device, processes = self.accelerator.device, self.accelerator.num_processes
        if processes > 1 and any(
            other != (self.classes, _digests(self.data)) for other in gather_object([(self.classes, _digests(self.data))])
        ):
            raise DataError("the processes found different images or classes; every machine needs the same --data and --val")
        self.say(
            f"{len(source)} images to train on, {len(val)} to measure on ({images.measured_on}), {describe_balance(source)}"
        )
        if options.tracker:
            self.accelerator.init_trackers("tracker", {key: str(value) for key, value in recipe.to_dict().items()})
        seed_everything(recipe.seed)
        model = build(name, config)
        if recipe.drop_path_rate and config.get("library") == "timm" and not config["drop_path_rate"]:
            self.say(f"{name} has no drop path; it is trained without the recipe's {recipe.drop_path_rate}")
        if options.init is not None:
            fresh = initialize(model, options.init)
            self.say(f"weights from {options.init}; trained anew: {', '.join(fresh) or 'nothing'}")
        if options.freeze:
            freeze_body(model)
        if processes > 1:
            model = synchronize_batchnorm(model, self.device)
        self.config = config
        self.sampler = EpochSampler(
            len(source),
            recipe.batch_size,
            recipe.seed,
            recipe.repeats,
            self.accelerator.process_index,
            processes,
            multiple=processes * options.accumulate * (2 if recipe.mixes() else 1),
        )
        self.loader: DataLoader[Any] = DataLoader(
            TrainingImages(source, preprocess, recipe, cache=options.cache, is_shared=options.num_workers > 0),
            batch_sampler=self.sampler,
            num_workers=options.num_workers,
            persistent_workers=options.num_workers > 0,
            pin_memory=self.device.type == "cuda",
            collate_fn=collate,
            worker_init_fn=leave_stopping_to_the_parent,
        )
        self.learner = Learner(
            model.to(self.device),
            replace(recipe, batch_size=self.sampler.batch_size),  # of fewer images, and so is its learning rate
            self.accelerator,
            preprocess,
            num_classes=len(self.classes),
            steps_per_epoch=len(self.sampler),
            size_multiple=size_multiple(config),
            accumulate=options.accumulate,
        )
        self.command = command
        self.commands = [{"from_step": 0, "command": command}]
        self.metrics: dict[str, Any] = {}
        self.temperature = 1.0
        self.last_validation: tuple[Outputs, Evaluation] | None = None
        self.broken: set[str] = set()
        self.seconds = 0.0
        self.saved_at = time.monotonic()

    def say(self, message: str) -> None:
        """Prints a line above the progress bar, once for all processes."""
        if self.accelerator.is_main_process:
            tqdm.write(message)

    def _any_process(self, flag: bool) -> bool:
        """Whether the flag is set in some process; the same answer in each."""
        if self.accelerator.num_processes == 1:
            return flag
        flags: Tensor = self.accelerator.reduce(torch.tensor(float(flag), device=self.device))
        return bool(flags.item())

    def run(self) -> Checkpoint:
        """Trains to the end or to the first Ctrl-C; returns the last checkpoint written.

        Raises:
            TrainError: the loss or a weight is not finite.
            KeyboardInterrupt: it was asked to stop; the checkpoint is written.
        """
        if self.learner.step >= self.learner.total_steps:
            if not self._any_process(self.accelerator.is_main_process and self._report_is_due()):
                self.say("this run is finished; nothing to do")
                return self._checkpoint()
            self.say("this run is finished, but for its report")
            self.metrics = self.metrics | self._measured(self._measure())
            return self._save()  # it may have ended without a validation, if its recipe was changed
        stop = StopRequest()
        started = time.monotonic()
        with stop.listening():
            for epoch in range(self.learner.step // len(self.sampler), self.recipe.epochs):
                train_metrics = self._run_epoch(epoch, stop)
                self.seconds, started = self.seconds + time.monotonic() - started, time.monotonic()
                due = (epoch + 1) % self.options.val_every == 0 or epoch + 1 == self.recipe.epochs
                if due and self._between_epochs():
                    self.learner.require_finite()
                    self._validate(epoch, train_metrics)
                checkpoint = self._save()
                if stop.requested:
                    raise KeyboardInterrupt
        return checkpoint

    def _run_epoch(self, epoch: int, stop: StopRequest) -> dict[str, float]:
        self.learner.model.train(not self.options.freeze)  # a frozen BatchNorm keeps its statistics
        self.sampler.epoch, self.sampler.first = epoch, self.learner.step % len(self.sampler)
        seen, hits, loss_sum, started = 0, 0, 0.0, time.monotonic()
        bar = tqdm(
            self.loader,
            total=len(self.sampler),
            initial=self.sampler.first,
            desc=f"epoch {epoch + 1}/{self.recipe.epochs}",
            unit="batch",
            mininterval=0.5,
            disable=not self.accelerator.is_main_process,
        )
        for images, labels, broken in bar:
            self._report_broken(broken)
            if not len(labels):
                raise DataError(f"not one image of a whole batch can be read; the first is {broken[0]}")
            loss, correct = self.learner.learn(images, labels)
            batch = self.sampler.batch_size
            seen, hits, loss_sum = seen + batch, hits + correct, loss_sum + loss * batch
            rate = seen / (time.monotonic() - started)
            left = self._images_left(batch) / rate
            bar.set_postfix_str(
                f"loss {loss_sum / seen:.3f}, acc {100 * hits / seen:.1f} %, {rate:.0f} images/s, "
                f"training left {left / 60:.0f} min",
                refresh=False,
            )
            stop.requested = self._any_process(stop.requested)
            if stop.requested:
                break
            if not self._between_epochs() and time.monotonic() - self.saved_at > 60 * self.options.checkpoint_minutes:
                self._save()
        bar.close()
        return {"train_loss": loss_sum / seen, "train_top1": 100 * hits / seen, "images_per_s": rate}

    def _images_left(self, batch: int) -> float:
        """Images until the end, in images of the present size: a step takes about as long as they are wide."""
        progress = self.learner.step / self.learner.total_steps
        scale = self.recipe.mean_scale_after(progress) / self.recipe.scale_at(progress)
        return (self.learner.total_steps - self.learner.step) * batch * scale

    def _between_epochs(self) -> bool:
        return self.learner.step % len(self.sampler) == 0

    def _report_broken(self, messages: list[str]) -> None:
        if messages and self.options.on_broken == "stop":
            raise DataError(messages[0])
        for message in set(messages) - self.broken:
            tqdm.write(f"left out: {message}")  # by whichever process met it
        self.broken.update(messages)

    def _measure(self) -> Evaluation:
        outputs = collect_validation(
            self.learner.averaged,
            self.val,
            self.preprocess,
            self.accelerator,
            num_workers=self.options.num_workers,
            on_error=lambda message: self._report_broken([message]),
        )
        if self.accelerator.num_processes > 1:
            self.broken = set(gather_object(sorted(self.broken)))
        result, self.temperature = calibrate(outputs)
        self.last_validation = outputs, result
        return result

    def _measured(self, result: Evaluation) -> dict[str, Any]:
        return {
            "val_top1": result.top1,
            "val_top5": result.top5,
            "val_ece": result.ece,
            "temperature": self.temperature,
            "val_images": result.images,
            "broken_images": len(self.broken),
        }

    def _validate(self, epoch: int, train_metrics: dict[str, float]) -> None:
        result = self._measure()
        self.metrics = {
            "epoch": epoch + 1,
            "lr": self.learner.learning_rate(),
            **train_metrics,
            **self._measured(result),
            "train_seconds": self.seconds,
        }
        self.accelerator.log(self.metrics, step=self.learner.step)
        if self.accelerator.is_main_process:
            append_metrics(self.options.out / LOG_NAME, self.metrics)
        self.say(
            f"epoch {epoch + 1}: loss {train_metrics['train_loss']:.3f}, validation top-1 {result.top1:.2f} % "
            f"of {result.images}, {train_metrics['images_per_s']:.0f} images/s"
        )

    def _save(self) -> Checkpoint:
        self.learner.require_finite()
        checkpoint = self._checkpoint()
        if self.accelerator.is_main_process:
            save_checkpoint(checkpoint, self.options.out / CHECKPOINT_NAME)
        self.saved_at = time.monotonic()
        return checkpoint

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(
            name=self.name,
            config=self.config,
            classes=self.classes,
            preprocess=self.preprocess.to_dict(),
            temperature=self.temperature,
            recipe=self.recipe.to_dict(),
            metrics=self.metrics,
            provenance={
                "commands": self.commands,
                "device": str(self.device),
                "processes": self.accelerator.num_processes,
                "precision": self.accelerator.mixed_precision,
                "train_seconds": round(self.seconds),
                "python": platform.python_version(),
                **{package: version(package) for package in ("torch", "torchvision", "timm", "numpy", "pillow")},
            },
            data=self.data,
            frozen=self.options.freeze,
            **self.learner.state(),
        )

    def write_report(self) -> None:
        """``report/`` of the last validation, where there was one in this process.

        Raises:
            TrainError: it cannot be written.
        """
        if self.last_validation is None or not self.accelerator.is_main_process:
            return
        from dhvt.evaluation.report import write_report  # loads matplotlib

        outputs, evaluation = self.last_validation
        provenance = self._checkpoint().provenance
        facts = {f"command from step {entry['from_step']}": f"`{entry['command']}`" for entry in provenance.pop("commands")}
        facts |= {name.replace("_", " "): str(value) for name, value in provenance.items()}
        if "images_per_s" in self.metrics:
            facts["training images/s"] = f"{self.metrics['images_per_s']:.0f}"
        try:
            path = write_report(
                self.options.out / "report",
                title=f"{self.name}: validation after {self.recipe.epochs} epochs",
                source=self.val,
                preprocess=self.preprocess,
                outputs=outputs,
                evaluation=evaluation,
                temperature=self.temperature,
                facts=facts,
                history=read_history(self.options.out / LOG_NAME),
            )
        except OSError as error:
            raise TrainError(
                f"cannot write the report: {error}; {CHECKPOINT_NAME} is complete, and the same command with --resume "
                "writes the report alone"
            ) from error
        self.say(f"report: {path}")

    def _report_is_due(self) -> bool:
        """Whether the last checkpoint has none, as after a crash between the two."""
        report, checkpoint = self.options.out / "report" / "report.md", self.options.out / CHECKPOINT_NAME
        return not report.exists() or report.stat().st_mtime < checkpoint.stat().st_mtime

    def load_last(self, path: Path) -> Checkpoint | None:
        """The main process's checkpoint, in every process: other machines may have disks of their own. None where it has none.

        Raises:
            CheckpointError: it cannot be read.
        """
        found = [load_checkpoint(path) if self.accelerator.is_main_process and path.exists() else None]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(found)
        return found[0]

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes over where a checkpoint stopped.

        Raises:
            CheckpointError: it is of another model, recipe, set of classes or images, or way to prepare them.
        """
        recipe, preprocess = from_dict(Recipe, checkpoint.recipe), checkpoint.build_preprocess()
        wanted = recipe
        if self.options.change_recipe:  # but with another batch size or seed, the steps done would mean another order
            wanted = replace(self.recipe, batch_size=recipe.batch_size, seed=recipe.seed, repeats=recipe.repeats)
            preprocess = replace(preprocess, crop_pct=self.preprocess.crop_pct)  # a field of the recipe
        require_equal("variant", checkpoint.name, self.name)
        require_equal("config", checkpoint.config, self.config)
        require_equal("classes", checkpoint.classes, self.classes)
        require_equal(
            "recipe",
            wanted.to_dict(),
            self.recipe.to_dict(),
            "repeat the first command with --resume, add --change-recipe for another recipe",
        )
        require_equal(
            "preprocessing", preprocess.to_dict(), self.preprocess.to_dict(), "give the same --img-size and --resize-mode"
        )
        if checkpoint.frozen is not None:
            require_equal("--freeze", checkpoint.frozen, self.options.freeze)
        if checkpoint.data:
            same = "give the same --data, --val and --val-fraction, with the same files in them"
            require_equal("data", _digests(checkpoint.data), _digests(self.data), same)
        self.commands = checkpoint.provenance["commands"]
        if recipe != self.recipe:
            self.commands = [*self.commands, {"from_step": checkpoint.step, "command": self.command}]
        self.learner.restore(checkpoint)
        self.metrics, self.temperature = checkpoint.metrics, checkpoint.temperature
        self.seconds = float(checkpoint.provenance.get("train_seconds", 0.0))


def _digests(data: dict[str, Any]) -> dict[str, str]:
    """What identifies the images, wherever they are on this machine."""
    return {kind: record["digest"] for kind, record in data.items()}


def train(options: RunOptions, recipe: Recipe | None = None, *, command: str = "") -> Checkpoint:
    """Trains a model, or resumes a run; what ``dhvt train`` does::

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
    recipe = Recipe.preset(options.recipe) if recipe is None else recipe
    images = open_training_data(options.data, options.val, options.val_fraction, recipe.seed)
    path = _prepare_folder(options)
    config = _configure_model(options, recipe, num_classes=len(images.train.classes))
    preprocess = Preprocess(size=config["img_size"], resize_mode=options.resize_mode, crop_pct=recipe.crop_pct)
    trainer = Trainer(config, images, preprocess, recipe, options, command)
    if options.resume:
        last = trainer.load_last(path)
        if last is not None:
            trainer.restore(last)
        else:
            trainer.say(f"nothing to resume at {path}; starting anew")
    if trainer.accelerator.is_main_process:
        write_config(options.out / CONFIG_NAME, options, recipe)
    checkpoint = trainer.run()
    trainer.write_report()
    trainer.accelerator.end_training()
    return checkpoint


def _prepare_folder(options: RunOptions) -> Path:
    """Makes ``options.out``; returns where its checkpoint is."""
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainError(f"cannot make the folder {options.out}: {error.strerror}; choose another --out") from error
    path = options.out / CHECKPOINT_NAME
    if path.exists() and not options.resume:
        raise CheckpointError(f"{path} exists; go on with --resume, or train into another --out")
    return path


def _configure_model(options: RunOptions, recipe: Recipe, num_classes: int) -> dict[str, Any]:
    return configure(
        options.variant,
        num_classes=num_classes,
        img_size=options.img_size,
        drop_path_rate=recipe.drop_path_rate,
        options=options.model_options,
    )
