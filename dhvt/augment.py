"""What training does to its pictures. Every random draw is a function of the seed, the epoch and the picture."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import torch
from timm.data.mixup import Mixup
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision.transforms import v2

from dhvt.config import Preprocess
from dhvt.data import ImageSource
from dhvt.errors import DataError, ImageError
from dhvt.preprocess import decode_rgb, preprocess
from dhvt.recipe import TrainRecipe

Key = tuple[int, int]  # (epoch, index)


def seed_everything(*keys: int) -> None:
    """Seeds Python, NumPy and torch (every device's generator) from some integers."""
    torch.manual_seed(_seed_cpu(keys))


def _seed_cpu(keys: tuple[int, ...]) -> int:
    """As above but for torch's other devices, which takes longer than augmenting a small picture."""
    state = np.random.SeedSequence([key % 2**32 for key in keys]).generate_state(3)
    random.seed(int(state[0]))
    np.random.seed(int(state[1]))
    torch.default_generator.manual_seed(int(state[2]))
    return int(state[2])


class EpochSampler(Sampler[list[Key]]):
    """Batches of ``(epoch, index)`` in an order that only the seed and the epoch decide, from a given batch on."""

    def __init__(self, length: int, batch_size: int, seed: int) -> None:
        self.length, self.batch_size, self.seed = length, min(batch_size, length), seed
        self.epoch, self.first = 0, 0

    def __len__(self) -> int:
        """Batches of a whole epoch; the remainder is left to the next epoch's order."""
        return self.length // self.batch_size

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length).tolist()
        for batch in range(self.first, len(self)):
            chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield [(self.epoch, index) for index in chosen]


class TrainingImages(Dataset[tuple[Tensor, int] | str]):
    """Decoded, augmented pictures ``(3, H, W)`` uint8 and labels, or a message where one is broken.

    Args:
        stop_on_broken: raise :class:`DataError` for a broken picture instead of handing on the message.
    """

    def __init__(self, source: ImageSource, cfg: Preprocess, recipe: TrainRecipe, *, stop_on_broken: bool) -> None:
        self.source, self.cfg, self.recipe, self.stop_on_broken = source, cfg, recipe, stop_on_broken
        self.transform = build_transform(cfg, recipe)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: Key) -> tuple[Tensor, int] | str:
        epoch, index = key
        try:
            image = self._decode(self.source.read(index))
        except ImageError as error:
            message = f"{self.source.locate(index)}: {error}"
            if self.stop_on_broken:
                raise DataError(message) from error
            return message
        _seed_cpu((self.recipe.seed, 1, epoch, index))
        return self.transform(image), int(self.source.labels[index])

    def _decode(self, data: bytes) -> Tensor:
        if self.recipe.crop == "pad":
            pixels = preprocess(data, self.cfg)
        else:
            pixels = np.asarray(decode_rgb(data, at_least=self.cfg.size))
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def build_transform(cfg: Preprocess, recipe: TrainRecipe) -> v2.Compose:
    """The per-picture augmentation, on uint8 ``(3, H, W)``."""
    height, width = cfg.size
    steps: list[torch.nn.Module] = []
    if recipe.crop == "pad":
        steps.append(v2.RandomCrop(cfg.size, padding=(width // 8, height // 8), padding_mode="reflect"))
    else:
        steps.append(v2.RandomResizedCrop(cfg.size, scale=(recipe.resized_min_area, 1.0), antialias=True))
    steps.append(v2.RandomHorizontalFlip(recipe.flip))
    if recipe.color_jitter:
        strength = recipe.color_jitter
        steps.append(v2.ColorJitter(strength, strength, strength))
    return v2.Compose(steps)


def collate(samples: list[tuple[Tensor, int] | str]) -> tuple[Tensor, Tensor, list[str]]:
    """Images ``(B, 3, H, W)`` uint8, labels ``(B,)`` int64, and messages of the pictures left out."""
    good = [sample for sample in samples if not isinstance(sample, str)]
    broken = [sample for sample in samples if isinstance(sample, str)]
    if not good:
        return torch.empty(0), torch.empty(0, dtype=torch.int64), broken
    images, labels = zip(*good, strict=True)
    return torch.stack(images), torch.tensor(labels), broken


def build_mixup(recipe: TrainRecipe, num_classes: int) -> Mixup | None:
    """timm's mixup and cutmix, or None where the recipe has neither."""
    if not recipe.mix_prob or not (recipe.mixup or recipe.cutmix):
        return None
    return Mixup(
        mixup_alpha=recipe.mixup,
        cutmix_alpha=recipe.cutmix,
        prob=recipe.mix_prob,
        label_smoothing=recipe.label_smoothing,
        num_classes=num_classes,
    )
