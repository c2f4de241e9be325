"""A run: what stays the same from its first step to its last."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from dhvt.data.preprocess import Preprocess
from dhvt.data.splits import TrainingData
from dhvt.data.statistics import describe_balance
from dhvt.errors import CheckpointError, TrainError
from dhvt.model.factory import configure
from dhvt.model.pretrained import require_published_weights
from dhvt.training.choose import choose_automatically
from dhvt.training.class_weights import weigh_classes
from dhvt.training.config import Recipe, RunOptions
from dhvt.training.distributed import any_process, open_accelerator, require_same_images
from dhvt.training.fields import UNCHOSEN
from dhvt.training.hold import hold_folder
from dhvt.training.nodes import share_newest, writes_files
from dhvt.training.open_images import open_images
from dhvt.training.progress import log
from dhvt.training.tracking import start_tracking, tracking_options
from dhvt.training.workers import choose_workers

CHECKPOINT_NAME = "ckpt.pt"
BEST_NAME = "best.pt"
LOG_NAME = "metrics.jsonl"
_UNFINISHED = re.compile(r"\.((ckpt\.pt|best\.pt|config\.toml)\.\d+|nodes-[0-9a-f]+)\.tmp")


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run is made of.

    Args:
        command: the command line, for the record.
        is_writer: whether this process writes the checkpoints and the log.
        images: to train and to validate on.
        data: what the checkpoint records of them.
        broken: messages about images that cannot be read and were left out.
        config: the model's architecture.
        preprocess: how its images are prepared.
    """

    options: RunOptions
    recipe: Recipe
    command: str
    accelerator: Accelerator
    is_writer: bool
    images: TrainingData
    data: dict[str, dict[str, Any]]
    broken: list[str]
    config: dict[str, Any]
    preprocess: Preprocess

    @property
    def classes(self) -> list[str]:
        """Class names in label order."""
        return list(self.images.train.classes)

    @cached_property
    def class_weights(self) -> Tensor | None:
        """Of the loss, see :func:`dhvt.training.class_weights.weigh_classes`."""
        return weigh_classes(self.recipe.class_weights, self.images.train.labels, len(self.classes))

    @property
    def is_resumable(self) -> bool:
        """Whether the main process has a checkpoint to go on from; the same in every process."""
        found = self.accelerator.is_main_process and (self.options.out / CHECKPOINT_NAME).exists()
        return self.options.resume and any_process(self.accelerator, found)

    @property
    def digests(self) -> dict[str, str]:
        """What identifies the images, wherever they lie."""
        return {kind: record["digest"] for kind, record in self.data.items()}


@contextmanager
def open_run(options: RunOptions, recipe: Recipe, command: str) -> Iterator[Run]:
    """Opens the images, makes the folder, keeps others out of it, and joins the other processes, if a launcher started some.

    Raises:
        ConfigError, DataError, CheckpointError, TrainError: something is missing, or in the way.
    """
    with _folder_made(options), ExitStack() as opening:
        run = _open_run(options, recipe, command, opening)
        held = opening.pop_all()
    with held:
        yield run


def _open_run(options: RunOptions, recipe: Recipe, command: str, held: ExitStack) -> Run:
    if options.pretrained:
        require_published_weights(options.variant)
    accelerator = open_accelerator(options.device, options.amp, options.wait_minutes, **tracking_options(options))
    is_writer = writes_files(accelerator, options.out)
    if is_writer:
        held.enter_context(hold_folder(options.out))
        _require_free(options)  # another training may have ended since this was first asked
    if options.resume:
        share_newest(accelerator, is_writer, options.out / CHECKPOINT_NAME, options.out / BEST_NAME)
    images, data, broken, white = open_images(options, recipe.seed, accelerator)
    choice = choose_automatically(options, recipe, images.train, accelerator, options.out / CHECKPOINT_NAME)
    options, recipe = choice.options, choice.recipe
    config = configure(
        options.variant,
        num_classes=len(images.train.classes),
        img_size=options.img_size,
        drop_path_rate=recipe.drop_path_rate,
        options=options.model_options,
        pretrained=choice.keeps_stem,
    )
    run = Run(
        options=options,
        recipe=recipe,
        command=command,
        accelerator=accelerator,
        is_writer=is_writer,
        images=images,
        data=data,
        broken=broken,
        config=config,
        preprocess=Preprocess(
            size=config["img_size"],
            resize_mode=options.resize_mode,
            crop_pct=recipe.crop_pct,
            integer_white=white.integers,
            float_white=white.floats,
            **choice.normalization,
        ),
    )
    if options.num_workers == UNCHOSEN:
        share = max(recipe.batch_size // accelerator.num_processes, 1)
        workers = choose_workers(images.train, run.preprocess, accelerator.device, share)
        run = replace(run, options=replace(options, num_workers=workers))
    require_same_images(accelerator, (run.classes, run.digests))
    if is_writer:
        _remove_unfinished(options.out)
    log(
        f"{len(images.train)} images to train on, {len(images.val)} to measure on ({images.measured_on}), "
        f"{describe_balance(images.train)}"
    )
    start_tracking(run.accelerator, options, recipe)
    return run


@contextmanager
def _folder_made(options: RunOptions) -> Iterator[None]:
    """The run's folder is made before its images are read, and what was made is removed if that fails, while it is empty."""
    try:
        missing = [folder for folder in (options.out, *options.out.parents) if not folder.exists()]
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainError(f"cannot make the folder {options.out}: {error.strerror}; choose another --out") from error
    _require_free(options)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # another process has removed one, or written into it
            for folder in missing:
                folder.rmdir()
        raise


def _require_free(options: RunOptions) -> None:
    """Raises a CheckpointError where a training without ``--resume`` would replace the checkpoints of another."""
    last, best = options.out / CHECKPOINT_NAME, options.out / BEST_NAME
    if options.resume:
        return
    if last.exists():
        raise CheckpointError(f"{last} exists; go on with --resume, or train into another --out")
    if best.exists():
        raise CheckpointError(f"{best} exists; {use_best(best)}")


def use_best(best: Path) -> str:
    """What to do with a best checkpoint whose last one is gone, in words."""
    return f"start from its weights with --init {best} and another --out, or move it away"


def _remove_unfinished(folder: Path) -> None:
    """Deletes what a killed process was still writing; each process has its own name for that, so nothing else would."""
    for path in folder.glob(".*.tmp"):
        if _UNFINISHED.fullmatch(path.name):
            path.unlink(missing_ok=True)
