"""A process's share of a batch of training images, before augmentation."""

from __future__ import annotations

from itertools import cycle, islice
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dhvt.training.sampler import Key

Sample = tuple[NDArray[np.uint8], int, Key]
"""Pixels ``(H, W, 3)``, label and key of one image."""

T = TypeVar("T")


class TrainingBatch(NamedTuple):
    """A process's share of a batch.

    Attributes:
        images: ``(B, H, W, 3)`` uint8, not augmented.
        labels: ``(B,)`` int64.
        keys: ``(B, 3)`` int64, of the images' random numbers.
        broken: messages of images that cannot be read. In the place of each stands another of the batch, so that every
            batch is of one size; unless all are broken, which gives an empty one.
    """

    images: Tensor
    labels: Tensor
    keys: Tensor
    broken: list[str]


def fill_up(good: list[T], count: int) -> list[T]:
    """``count`` of them, the first ones again where there are fewer."""
    return list(islice(cycle(good), count))


def collate(samples: list[Sample | str]) -> TrainingBatch:
    """The batch of some decoded images and of messages about broken ones."""
    good = [sample for sample in samples if not isinstance(sample, str)]
    broken = [sample for sample in samples if isinstance(sample, str)]
    if not good:
        nothing = torch.empty(0, dtype=torch.int64)
        return TrainingBatch(nothing, nothing, nothing, broken)
    images, labels, keys = zip(*fill_up(good, len(samples)), strict=True)
    return TrainingBatch(torch.from_numpy(np.stack(images)), torch.tensor(labels), torch.tensor(keys), broken)
