"""The training loop. What is drawn at random is a function of the seed and the step, so a checkpoint holds no
generator states: a resumed run repeats exactly what an unbroken one would have done."""

from __future__ import annotations

import json
import math
import platform
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from tqdm import tqdm

from dhvt.augment import EpochSampler, TrainingImages, build_erasing, build_mixup, collate, seed_everything
from dhvt.calibration import fit_temperature
from dhvt.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from dhvt.config import Preprocess, from_dict
from dhvt.data import ImageSource
from dhvt.devices import autocast, pick_device
from dhvt.errors import CheckpointError, DataError, TrainError
from dhvt.evaluate import Evaluation, Outputs, collect_outputs, evaluate
from dhvt.finetune import freeze_body, initialize
from dhvt.graph import Normalize, ServedModel
from dhvt.optim import build_optimizers, learning_rate
from dhvt.recipe import TrainRecipe
from dhvt.zoo import build, configure, size_multiple

CHECKPOINT_NAME = "ckpt.pt"
LOG_NAME = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """One run: where it starts, where it goes, on what it runs.

    Args:
        out: folder for ``ckpt.pt`` and ``metrics.jsonl``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        amp: ``auto``, ``bf16`` or ``off``; auto is bf16 where the processor multiplies it natively.
        num_workers: processes that decode pictures; 0 decodes in the training process.
        checkpoint_minutes: a checkpoint is also written in mid-epoch when the last is this old.
        stop_on_broken: whether a picture that cannot be read ends the training.
        resume: go on from ``out/ckpt.pt``.
        init: a checkpoint, or an authors' file, to take the weights from.
        freeze: train the classifier alone.
        change_recipe: resume although the recipe differs from the checkpoint's, as to train for more epochs.
        command: the command line, for the record.
    """

    out: Path
    device: str = "auto"
    amp: str = "auto"
    num_workers: int = 0
    checkpoint_minutes: float = 5.0
    stop_on_broken: bool = True
    resume: bool = False
    init: Path | None = None
    freeze: bool = False
    change_recipe: bool = False
    command: str = ""


class _StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a flag that is looked at between steps; the second one interrupts."""

    def __init__(self) -> None:
        self.requested = False

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        tqdm.write("stopping after this step; press Ctrl-C again to stop without a checkpoint")

    @contextmanager
    def listening(self) -> Iterator[None]:
        previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


class Trainer:
    """Trains one model; :func:`train` is the way in."""

    def __init__(
        self,
        name: str,
        config: dict[str, Any],
        source: ImageSource,
        val: ImageSource,
        cfg: Preprocess,
        recipe: TrainRecipe,
        options: RunOptions,
    ) -> None:
        self.name, self.val, self.cfg, self.recipe, self.options = name, val, cfg, recipe, options
        self.classes = list(source.classes)
        self.device = pick_device(options.device)
        seed_everything(recipe.seed)
        self.model = build(name, config)
        if options.init is not None:
            fresh = initialize(self.model, options.init)
            tqdm.write(f"weights from {options.init}; trained anew: {', '.join(fresh) or 'nothing'}")
        if options.freeze:
            freeze_body(self.model)
        self.model.to(self.device)
        self.config, self.multiple = config, size_multiple(config)
        self.ema = ModelEmaV3(self.model, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None
        self.optimizers = build_optimizers(self.model, recipe)
        self.autocast = autocast(self.device, options.amp)
        self.normalize = Normalize(cfg).to(self.device)
        self.erase = build_erasing(recipe, self.device)
        self.mixup = build_mixup(recipe, len(self.classes))
        self.sampler = EpochSampler(len(source), recipe.batch_size, recipe.seed, recipe.repeats)
        self.loader: DataLoader[Any] = DataLoader(
            TrainingImages(source, cfg, recipe),
            batch_sampler=self.sampler,
            num_workers=options.num_workers,
            collate_fn=collate,
        )
        self.step = 0
        self.commands = [{"from_step": 0, "command": options.command}]
        self.metrics: dict[str, Any] = {}
        self.temperature = 1.0
        self.last_validation: tuple[Outputs, Evaluation] | None = None
        self.broken: set[str] = set()
        self.seconds = 0.0
        self.saved_at = time.monotonic()

    @property
    def total_steps(self) -> int:
        return self.recipe.epochs * len(self.sampler)

    def run(self) -> Checkpoint:
        """Trains to the end or to the first Ctrl-C; returns the last checkpoint written.

        Raises:
            TrainError: the loss is not finite.
            KeyboardInterrupt: it was asked to stop; the checkpoint is written.
        """
        if self.step >= self.total_steps:
            tqdm.write("this run is finished; nothing to do")
            return self._checkpoint()
        stop = _StopRequest()
        started = time.monotonic()
        with stop.listening():
            for epoch in range(self.step // len(self.sampler), self.recipe.epochs):
                train_metrics = self._run_epoch(epoch, stop)
                self.seconds, started = self.seconds + time.monotonic() - started, time.monotonic()
                if not stop.requested:
                    self._validate(epoch, train_metrics)
                checkpoint = self._save()
                if stop.requested:
                    raise KeyboardInterrupt
        return checkpoint

    def _run_epoch(self, epoch: int, stop: _StopRequest) -> dict[str, float]:
        self.model.train(not self.options.freeze)  # a frozen BatchNorm keeps its statistics
        self.sampler.epoch, self.sampler.first = epoch, self.step % len(self.sampler)
        seen, hits, loss_sum, started = 0, 0, 0.0, time.monotonic()
        bar = tqdm(
            self.loader,
            total=len(self.sampler),
            initial=self.sampler.first,
            desc=f"epoch {epoch + 1}/{self.recipe.epochs}",
            unit="batch",
            mininterval=0.5,
        )
        for images, labels, broken in bar:
            self._report_broken(broken)
            if len(labels):
                loss, correct = self._train_step(images.to(self.device), labels.to(self.device))
                seen, hits, loss_sum = seen + len(labels), hits + correct, loss_sum + loss * len(labels)
            self.step += 1
            rate = seen / (time.monotonic() - started)
            left = (self.total_steps - self.step) * self.sampler.batch_size / max(rate, 1e-9)
            bar.set_postfix_str(
                f"loss {loss_sum / max(seen, 1):.3f}, acc {100 * hits / max(seen, 1):.1f} %, {rate:.0f} images/s, "
                f"training left {left / 60:.0f} min",
                refresh=False,
            )
            if stop.requested:
                break
            if time.monotonic() - self.saved_at > 60 * self.options.checkpoint_minutes:
                self._save()
        bar.close()
        return {"train_loss": loss_sum / max(seen, 1), "train_top1": 100 * hits / max(seen, 1), "images_per_s": rate}

    def _train_step(self, images: Tensor, labels: Tensor) -> tuple[float, int]:
        seed_everything(self.recipe.seed, 2, self.step)
        inputs = self.erase(self._rescale(self.normalize(images.permute(0, 2, 3, 1))))
        targets = labels
        smoothing = self.recipe.label_smoothing
        if self.mixup is not None and len(labels) % 2 == 0:
            inputs, targets = self.mixup(inputs, labels)
            smoothing = 0.0  # it is in the mixed targets
        with self.autocast:
            logits = self.model(inputs)
        loss = functional.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainError(
                f"the loss became {value} at step {self.step}; the last checkpoint is untouched. "
                "Train into another --out with a lower --lr or with --clip-grad 1"
            )
        loss.backward()
        if self.recipe.clip_grad:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad)
        lr = learning_rate(self.recipe, self.step, len(self.sampler))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.model, self.step)
        return value, int((logits.argmax(1) == labels).sum())

    def _rescale(self, inputs: Tensor) -> Tensor:
        scale = self.recipe.scale_at(self.step / self.total_steps)
        if scale == 1 or not self.multiple:
            return inputs
        size = [max(round(side * scale / self.multiple), 1) * self.multiple for side in inputs.shape[-2:]]
        return functional.interpolate(inputs, size, mode="bilinear", antialias=True)

    def _report_broken(self, messages: list[str]) -> None:
        if messages and self.options.stop_on_broken:
            raise DataError(messages[0])
        for message in set(messages) - self.broken:
            tqdm.write(f"left out: {message}")
        self.broken.update(messages)

    def _validate(self, epoch: int, train_metrics: dict[str, float]) -> None:
        graph = ServedModel(self.model if self.ema is None else self.ema.module, self.cfg).to(self.device).eval()

        def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
            with torch.inference_mode(), self.autocast:
                logits: NDArray[np.float32] = graph(torch.from_numpy(images).to(self.device)).cpu().numpy()
            return logits

        outputs = collect_outputs(predict, self.val, self.cfg, on_error=lambda message: self._report_broken([message]))
        self.temperature = fit_temperature(outputs.logits, outputs.labels)
        result = evaluate(outputs, self.temperature)
        self.last_validation = outputs, result
        self.metrics = {
            "epoch": epoch + 1,
            "lr": learning_rate(self.recipe, self.step - 1, len(self.sampler)),
            **train_metrics,
            "val_top1": result.top1,
            "val_top5": result.top5,
            "val_ece": result.ece,
            "temperature": self.temperature,
            "val_images": result.images,
            "broken_images": len(self.broken),
            "train_seconds": self.seconds,
        }
        with (self.options.out / LOG_NAME).open("a", encoding="utf-8") as log:
            log.write(json.dumps(self.metrics) + "\n")
        tqdm.write(
            f"epoch {epoch + 1}: loss {train_metrics['train_loss']:.3f}, validation top-1 {result.top1:.2f} % "
            f"of {result.images}, {train_metrics['images_per_s']:.0f} images/s"
        )

    def _save(self) -> Checkpoint:
        checkpoint = self._checkpoint()
        save_checkpoint(checkpoint, self.options.out / CHECKPOINT_NAME)
        self.saved_at = time.monotonic()
        return checkpoint

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(
            name=self.name,
            config=self.config,
            weights=self.model.state_dict(),
            ema=None if self.ema is None else self.ema.module.state_dict(),
            classes=self.classes,
            preprocess=self.cfg.to_dict(),
            temperature=self.temperature,
            recipe=self.recipe.to_dict(),
            metrics=self.metrics,
            provenance={
                "commands": self.commands,
                "device": str(self.device),
                "train_seconds": round(self.seconds),
                "python": platform.python_version(),
                **{package: version(package) for package in ("torch", "torchvision", "timm", "numpy", "pillow")},
            },
            step=self.step,
            optimizers=[optimizer.state_dict() for optimizer in self.optimizers],
        )

    def write_report(self) -> None:
        """``report/`` of the last validation, where there was one in this run."""
        if self.last_validation is None:
            return
        from dhvt.report import write_report  # loads matplotlib

        outputs, evaluation = self.last_validation
        provenance = self._checkpoint().provenance
        facts = {f"command from step {entry['from_step']}": f"`{entry['command']}`" for entry in provenance.pop("commands")}
        facts |= {name.replace("_", " "): str(value) for name, value in provenance.items()}
        facts["training images/s"] = f"{self.metrics['images_per_s']:.0f}"
        log = (self.options.out / LOG_NAME).read_text(encoding="utf-8")
        path = write_report(
            self.options.out / "report",
            title=f"{self.name}: validation after {self.recipe.epochs} epochs",
            source=self.val,
            cfg=self.cfg,
            outputs=outputs,
            evaluation=evaluation,
            temperature=self.temperature,
            facts=facts,
            history=[json.loads(line) for line in log.splitlines()],
        )
        tqdm.write(f"report: {path}")

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes over where a checkpoint stopped.

        Raises:
            CheckpointError: it is of another model, recipe or set of classes.
        """
        recipe = from_dict(TrainRecipe, checkpoint.recipe)
        wanted = recipe
        if self.options.change_recipe:  # but with another batch size or seed, the steps done would mean another order
            wanted = replace(self.recipe, batch_size=recipe.batch_size, seed=recipe.seed, repeats=recipe.repeats)
        for name, old, new in (
            ("config", checkpoint.config, self.config),
            ("classes", checkpoint.classes, self.classes),
            ("recipe", wanted.to_dict(), self.recipe.to_dict()),
        ):
            if old != new:
                raise CheckpointError(
                    f"cannot resume: the checkpoint's {name} is {_difference(old, new)}; repeat the first command with "
                    "--resume, add --change-recipe for another recipe, or train into another --out"
                )
        self.commands = checkpoint.provenance["commands"]
        if recipe != self.recipe:
            self.commands = [*self.commands, {"from_step": checkpoint.step, "command": self.options.command}]
        self.model.load_state_dict(checkpoint.weights)
        if self.ema is not None and checkpoint.ema is not None:
            self.ema.module.load_state_dict(checkpoint.ema)
        for optimizer, state in zip(self.optimizers, checkpoint.optimizers, strict=True):
            optimizer.load_state_dict(state)
        self.step, self.metrics, self.temperature = checkpoint.step, checkpoint.metrics, checkpoint.temperature
        self.seconds = float(checkpoint.provenance.get("train_seconds", 0.0))


def _difference(old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        changed = [f"{key} {old.get(key)!r}, now {new[key]!r}" for key in new if old.get(key) != new[key]]
        return "; ".join(changed)
    return f"{old!r}, now {new!r}"


def train(
    name: str,
    source: ImageSource,
    val: ImageSource,
    recipe: TrainRecipe,
    options: RunOptions,
    *,
    cfg: Preprocess | None = None,
) -> Checkpoint:
    """Trains a model from scratch, or goes on with a run.

    Args:
        name: a DHVT variant, or a classifier of timm.
        source, val: pictures to learn from and to measure on; ``val`` has the same classes.
        recipe: how to train.
        options: where, on what, and whether to resume.
        cfg: preprocessing; by default the model's size with ImageNet's mean and standard deviation.

    Returns:
        The last checkpoint, which is also at ``options.out / "ckpt.pt"``.

    Raises:
        ConfigError, DataError, CheckpointError, TrainError: see their classes.
        KeyboardInterrupt: after Ctrl-C, with the checkpoint written.
    """
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / CHECKPOINT_NAME
    if path.exists() and not options.resume:
        raise CheckpointError(f"{path} exists; go on with --resume, or train into another --out")
    size = None if cfg is None else cfg.size
    config = configure(name, num_classes=len(source.classes), img_size=size, drop_path_rate=recipe.drop_path_rate)
    if cfg is None:
        cfg = Preprocess(size=config["img_size"], crop_pct=recipe.crop_pct)
    trainer = Trainer(name, config, source, val, cfg, recipe, options)
    if options.resume:
        if path.exists():
            trainer.restore(load_checkpoint(path))
        else:
            tqdm.write(f"nothing to resume at {path}; starting anew")
    checkpoint = trainer.run()
    trainer.write_report()
    return checkpoint
