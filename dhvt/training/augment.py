"""What training does to its images. Every random draw is a function of the seed, the epoch and the image."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision.transforms import v2

from dhvt.data.decode import decode_rgb
from dhvt.data.preprocess import Preprocess, preprocess_image
from dhvt.data.sources import ImageSource
from dhvt.errors import ConfigError, ImageError
from dhvt.training.config import Recipe

Key = tuple[int, int, int]  # (epoch, index, repeat)


def seed_everything(*keys: int) -> None:
    """Seeds Python, NumPy and torch (every device's generator) from some integers."""
    torch.manual_seed(_seed_cpu(keys))


def _seed_cpu(keys: tuple[int, ...]) -> int:
    """The same without the generators of other devices, whose seeding takes longer than augmenting a small image."""
    state = np.random.SeedSequence([key % 2**32 for key in keys]).generate_state(3)
    random.seed(int(state[0]))
    np.random.seed(int(state[1]))
    torch.default_generator.manual_seed(int(state[2]))
    return int(state[2])


class EpochSampler(Sampler[list[Key]]):
    """Batches of keys in an order that only the seed and the epoch decide, from a given batch on.

    With ``repeats`` r, an epoch has each of a random 1/r of the images r times, the repeats beside each other.
    Of several processes, each takes every ``processes``-th key of a batch, so that they share out the repeats.

    Args:
        length: images.
        batch_size: keys of one optimizer step, in all processes together. With fewer images, as many as there are,
            rounded down to a multiple of ``multiple``.
        multiple: what each batch must divide by: the processes, the parts that each accumulates, and the pairs of mixup.

    Raises:
        ConfigError: the batch size does not divide, or there are too few images.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        repeats: int = 1,
        process: int = 0,
        processes: int = 1,
        *,
        multiple: int = 1,
    ) -> None:
        self.batch_size = batch_size if batch_size <= length else length - length % multiple
        if self.batch_size % multiple or not self.batch_size:
            raise ConfigError(
                f"a batch of {min(batch_size, length)} does not divide by {multiple}: the processes, times --accumulate, "
                f"times 2 where images are mixed in pairs; give a --batch-size that does, and {multiple} images at least"
            )
        self.length, self.seed, self.repeats = length, seed, repeats
        self.process, self.processes = process, processes
        self.epoch, self.first = 0, 0

    def __len__(self) -> int:
        """Batches of a whole epoch; the remainder is left to the next epoch's order."""
        return self.length // self.batch_size

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length).tolist()
        keys = [(self.epoch, index, repeat) for index in order for repeat in range(self.repeats)]
        for batch in range(self.first, len(self)):
            yield keys[batch * self.batch_size : (batch + 1) * self.batch_size][self.process :: self.processes]


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
        _seed_cpu((self.recipe.seed, 1, epoch, index, repeat))
        return self.transform(image), int(self.source.labels[index])

    def _decode(self, index: int) -> Image.Image:
        if self.recipe.crop != "pad":
            return decode_rgb(self.source.read(index), at_least=self.preprocess.size)
        if self.cache is not None and self.cached[index]:
            return Image.fromarray(self.cache[index].numpy())
        pixels = preprocess_image(self.source.read(index), self.preprocess)
        if self.cache is not None:
            self.cache[index] = torch.tensor(pixels)
            self.cached[index] = True
        return Image.fromarray(pixels)


def build_transform(preprocess: Preprocess, recipe: Recipe) -> v2.Compose:
    """The per-image augmentation, from an RGB image to uint8 ``(3, H, W)``."""
    height, width = preprocess.size
    steps: list[Callable[..., Any]] = []
    if recipe.crop == "pad":
        steps.append(v2.RandomCrop(preprocess.size, padding=(width // 8, height // 8), padding_mode=recipe.padding_mode))
    else:
        area = (recipe.resized_min_area, 1.0)
        steps.append(v2.RandomResizedCrop(preprocess.size, scale=area, interpolation=v2.InterpolationMode.BICUBIC))
    steps.append(v2.RandomHorizontalFlip(recipe.flip))
    if recipe.color_jitter:
        strength = recipe.color_jitter
        steps.append(v2.ColorJitter(strength, strength, strength))
    if recipe.auto_augment:
        fill = tuple(round(255 * value) for value in preprocess.mean)
        hparams = {"translate_const": round(min(preprocess.size) * 0.45), "img_mean": fill}
        steps.append(rand_augment_transform(recipe.auto_augment, hparams))
    return v2.Compose([*steps, v2.PILToTensor()])


def build_erasing(recipe: Recipe, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Random erasing of normalised batches ``(B, 3, H, W)``, in place, each pixel drawn by itself."""
    if not recipe.random_erasing:
        return lambda images: images
    erase: Callable[[Tensor], Tensor] = RandomErasing(recipe.random_erasing, mode="pixel", device=str(device))
    return erase


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


def build_mixup(recipe: Recipe, num_classes: int) -> Mixup | None:
    """timm's mixup and cutmix, or None where the recipe has neither."""
    if not recipe.mixes():
        return None
    return Mixup(
        mixup_alpha=recipe.mixup,
        cutmix_alpha=recipe.cutmix,
        prob=recipe.mix_prob,
        switch_prob=recipe.switch_prob,
        label_smoothing=recipe.label_smoothing,
        num_classes=num_classes,
    )


def _share(*tensors: Tensor) -> None:
    try:
        for tensor in tensors:
            tensor.share_memory_()
    except RuntimeError as error:
        needed = sum(tensor.nbytes for tensor in tensors)
        raise ConfigError(
            f"--cache with --num-workers needs {needed:,} bytes of shared memory ({error}); give a container more with "
            "--shm-size, or leave one of the two away"
        ) from error
