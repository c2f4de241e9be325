"""The training images: decoded once and kept on the device where they fit, else decoded by loader processes each time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from dhvt.data.batches import read_pixels
from dhvt.data.decode import REDUCING_GAP, decode_rgb
from dhvt.data.preprocess import Preprocess
from dhvt.data.sources import ImageSource
from dhvt.errors import ImageError
from dhvt.training.augmentation.draws import Draws
from dhvt.training.augmentation.geometry import to_device
from dhvt.training.batch import Sample, TrainingBatch, collate, fill_up
from dhvt.training.config import Recipe
from dhvt.training.run import Run
from dhvt.training.sampler import EpochSampler, Key
from dhvt.training.signals import leave_stopping_to_the_parent
from dhvt.training.storage import StoredImages, images_fit, store_images

SMALLEST_ASPECT_RATIO = 3 / 4
"""Of a random crop, and its inverse is the largest; torchvision's and timm's usual range."""

_CROP_ATTEMPTS = 10


class DecodedImages(Dataset[Sample | str]):
    """Decoded images ``(H, W, 3)`` uint8, cut to size, with labels and keys; or a message where one is broken."""

    def __init__(self, source: ImageSource, preprocess: Preprocess, recipe: Recipe) -> None:
        self.source, self.preprocess, self.recipe = source, preprocess, recipe

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: Key) -> Sample | str:
        index = key[1]
        pixels = self._crop(key) if self.recipe.crop == "resized" else read_pixels(self.source, self.preprocess, index)
        if isinstance(pixels, ImageError):
            return f"{self.source.locate(index)}: {pixels}"
        return pixels, int(self.source.labels[index]), key

    def _crop(self, key: Key) -> NDArray[np.uint8] | ImageError:
        """A random area and aspect ratio of the image, at the size of training."""
        needed = needed_size(self.preprocess, self.recipe.resized_min_area)
        try:
            image = decode_rgb(self.source.read(key[1]), at_least=needed, white=self.preprocess.white)
        except ImageError as error:
            return error
        box = draw_crop(Draws(self.recipe.seed, np.array([key])), image.width, image.height, self.recipe.resized_min_area)
        height, width = self.preprocess.size
        return np.asarray(image.crop(box).resize((width, height), Image.Resampling.BICUBIC))


def draw_crop(draws: Draws, width: int, height: int, min_area: float) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a random crop of one image, as torchvision's ``RandomResizedCrop`` draws it."""
    areas = width * height * (min_area + (1 - min_area) * draws.uniform("crop area", _CROP_ATTEMPTS)[0])
    low = math.log(SMALLEST_ASPECT_RATIO)
    ratios = np.exp(low - 2 * low * draws.uniform("crop ratio", _CROP_ATTEMPTS)[0])
    for crop_width, crop_height in zip(np.rint(np.sqrt(areas * ratios)), np.rint(np.sqrt(areas / ratios)), strict=True):
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = int(draws.integers("crop left", width - int(crop_width) + 1)[0])
            top = int(draws.integers("crop top", height - int(crop_height) + 1)[0])
            return left, top, left + int(crop_width), top + int(crop_height)
    return _central_crop(width, height)


def _central_crop(width: int, height: int) -> tuple[int, int, int, int]:
    """The largest crop of an allowed aspect ratio, where no random one fitted."""
    crop_width = min(width, round(height / SMALLEST_ASPECT_RATIO))
    crop_height = min(height, round(width / SMALLEST_ASPECT_RATIO))
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return left, top, left + crop_width, top + crop_height


def needed_size(preprocess: Preprocess, min_area: float) -> tuple[int, int]:
    """The ``at_least`` with which a JPEG is decoded large enough for its smallest random crop not to be enlarged.

    The shorter side of that crop is ``sqrt(min_area · SMALLEST_ASPECT_RATIO)`` of the image's, and :func:`decode_rgb`
    keeps :data:`REDUCING_GAP` times what it is asked for.
    """
    factor = max(1.0, 1 / (REDUCING_GAP * math.sqrt(min_area * SMALLEST_ASPECT_RATIO)))
    height, width = preprocess.size
    return math.ceil(height * factor), math.ceil(width * factor)


class StoredBatches:
    """The sampler's batches, from images that are kept on the device."""

    def __init__(self, stored: StoredImages, labels: NDArray[np.int64], sampler: EpochSampler) -> None:
        self.stored, self.sampler = stored, sampler
        self._labels = torch.from_numpy(labels)

    def __iter__(self) -> Iterator[TrainingBatch]:
        for keys in self.sampler:
            yield self._collect(keys)

    def _collect(self, keys: list[Key]) -> TrainingBatch:
        broken = [self.stored.broken[index] for _, index, _ in keys if index in self.stored.broken]
        good = [key for key in keys if key[1] not in self.stored.broken]
        if not good:
            return collate([*broken])
        chosen = torch.tensor(fill_up(good, len(keys)))
        indices, pixels = chosen[:, 1], self.stored.pixels
        at = to_device(indices.numpy(), pixels.device)
        return TrainingBatch(pixels.index_select(0, at), self._labels[indices], chosen, broken)


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


Batches = Iterable[TrainingBatch]
"""The batches of an epoch, each time that it is iterated over."""


def build_loader(run: Run, sampler: EpochSampler) -> Batches:
    """The sampler's batches, of :class:`TrainingBatch`.

    Raises:
        ConfigError: ``--cache`` with images that do not fit, or whose crops are cut out of the files in each epoch.
    """
    source = run.images.train
    if images_fit(run):
        return StoredBatches(store_images(run, source), source.labels, sampler)
    loader: DataLoader[Any] = DataLoader(
        DecodedImages(source, run.preprocess, run.recipe),
        batch_sampler=sampler,
        num_workers=run.options.num_workers,
        persistent_workers=run.options.num_workers > 0,
        pin_memory=run.accelerator.device.type == "cuda",
        collate_fn=collate,
        worker_init_fn=leave_stopping_to_the_parent,
    )
    return loader
