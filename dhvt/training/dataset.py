"""The training images: decoded, augmented and collated into batches."""

from __future__ import annotations

import math
from itertools import cycle, islice
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dhvt.data.decode import REDUCING_GAP, decode_rgb
from dhvt.data.preprocess import Preprocess, preprocess_image
from dhvt.data.sources import ImageSource
from dhvt.errors import ConfigError, ImageError
from dhvt.training.config import Recipe
from dhvt.training.run import Run
from dhvt.training.sampler import EpochSampler, Key
from dhvt.training.seeds import seed_cpu
from dhvt.training.signals import leave_stopping_to_the_parent
from dhvt.training.transforms import SMALLEST_ASPECT_RATIO, build_transform


class TrainingImages(Dataset[tuple[Tensor, int] | str]):
    """Decoded, augmented images ``(3, H, W)`` uint8 and labels, or a message where one is broken.

    Args:
        cache: keep what was decoded: ``len × H × W × 3`` bytes.
        is_shared: keep it in memory that loader processes share.

    Raises:
        ConfigError: a cache with a recipe that cuts its crops out of the full images, or larger than the shared memory.
    """

    def __init__(
        self, source: ImageSource, preprocess: Preprocess, recipe: Recipe, *, cache: bool = False, is_shared: bool = False
    ) -> None:
        if cache and recipe.crop != "pad":
            raise ConfigError('--cache keeps images at the size of training; it needs a recipe with crop = "pad"')
        self.source, self.preprocess, self.recipe = source, preprocess, recipe
        self.transform = build_transform(preprocess, recipe)
        self.cache: Tensor | None = None
        if cache:
            self.cache = torch.zeros((len(source), *preprocess.size, 3), dtype=torch.uint8)
            self.cached = torch.zeros(len(source), dtype=torch.bool)
            if is_shared:
                _share(self.cache, self.cached)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: Key) -> tuple[Tensor, int] | str:
        epoch, index, repeat = key
        try:
            image = self._decode(index)
        except ImageError as error:
            return f"{self.source.locate(index)}: {error}"
        seed_cpu(self.recipe.seed, 1, epoch, index, repeat)
        return self.transform(image), int(self.source.labels[index])

    def _decode(self, index: int) -> Image.Image:
        if self.recipe.crop != "pad":
            needed = _needed_size(self.preprocess, self.recipe.resized_min_area)
            return decode_rgb(self.source.read(index), at_least=needed, white=self.preprocess.white)
        if self.cache is not None and self.cached[index]:
            return Image.fromarray(self.cache[index].numpy())
        pixels = preprocess_image(self.source.read(index), self.preprocess)
        if self.cache is not None:
            self.cache[index] = torch.tensor(pixels)
            self.cached[index] = True
        return Image.fromarray(pixels)


def _needed_size(preprocess: Preprocess, min_area: float) -> tuple[int, int]:
    """The ``at_least`` with which a JPEG is decoded large enough for its smallest random crop not to be enlarged.

    The shorter side of that crop is ``sqrt(min_area · SMALLEST_ASPECT_RATIO)`` of the image's, and :func:`decode_rgb`
    keeps :data:`REDUCING_GAP` times what it is asked for.
    """
    factor = max(1.0, 1 / (REDUCING_GAP * math.sqrt(min_area * SMALLEST_ASPECT_RATIO)))
    height, width = preprocess.size
    return math.ceil(height * factor), math.ceil(width * factor)


def collate(samples: list[tuple[Tensor, int] | str]) -> tuple[Tensor, Tensor, list[str]]:
    """Images ``(B, 3, H, W)`` uint8, labels ``(B,)`` int64, and messages of the broken images.

    In the place of a broken image stands another of the batch, so that every batch is of one size; unless all are
    broken, which gives an empty one.
    """
    good = [sample for sample in samples if not isinstance(sample, str)]
    broken = [sample for sample in samples if isinstance(sample, str)]
    if not good:
        return torch.empty(0), torch.empty(0, dtype=torch.int64), broken
    images, labels = zip(*islice(cycle(good), len(samples)), strict=True)
    return torch.stack(images), torch.tensor(labels), broken


def build_sampler(run: Run) -> EpochSampler:
    """The order of a run's batches."""
    recipe, accelerator = run.recipe, run.accelerator
    return EpochSampler(
        len(run.images.train),
        recipe.batch_size,
        recipe.seed,
        recipe.repeats,
        accelerator.process_index,
        accelerator.num_processes,
        multiple=accelerator.num_processes * run.options.accumulate * (2 if recipe.mixes() else 1),
    )


def build_loader(run: Run, sampler: EpochSampler) -> DataLoader[Any]:
    """What :func:`collate` makes of each of the sampler's batches; decoded by ``--num-workers`` processes."""
    options = run.options
    images = TrainingImages(
        run.images.train, run.preprocess, run.recipe, cache=options.cache, is_shared=options.num_workers > 0
    )
    return DataLoader(
        images,
        batch_sampler=sampler,
        num_workers=options.num_workers,
        persistent_workers=options.num_workers > 0,
        pin_memory=run.accelerator.device.type == "cuda",
        collate_fn=collate,
        worker_init_fn=leave_stopping_to_the_parent,
    )


def _share(*tensors: Tensor) -> None:
    try:
        for tensor in tensors:
            tensor.share_memory_()
    except RuntimeError as error:
        needed = sum(tensor.nbytes for tensor in tensors)
        raise ConfigError(
            f"--cache with --num-workers needs {needed:,} bytes of shared memory ({error}); give a container more with "
            "--shm-size, or omit one of the two options"
        ) from error
