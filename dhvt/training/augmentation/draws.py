"""Random numbers by counting: each is a function of the seed, the epoch, the image and the repeat, and of nothing else.

So a resumed run draws what an unbroken one would have, whatever else is in a batch and however many processes share it. The
function is SplitMix64's finaliser (Steele et al. 2014), applied to the keys one after the other.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)


class Draws:
    """The random numbers of some images.

    Args:
        keys: ``(B, 3)`` int64, each image's epoch, index and repeat.
    """

    def __init__(self, seed: int, keys: NDArray[np.int64]) -> None:
        state = _mix(np.full(len(keys), np.uint64(seed % 2**64)))
        for column in keys.astype(np.uint64).T:
            state = _mix(state ^ column)
        self._state = state

    def __len__(self) -> int:
        return len(self._state)

    def uniform(self, purpose: str, count: int = 1) -> NDArray[np.float64]:
        """``(B, count)`` numbers in [0, 1); each purpose has its own, whatever else is drawn."""
        return (self.bits(purpose, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def normal(self, purpose: str, count: int = 1) -> NDArray[np.float64]:
        """``(B, count)`` numbers of the standard normal distribution (Box and Muller 1958)."""
        radius, angle = np.split(self.uniform(purpose, 2 * count), 2, axis=1)
        normal: NDArray[np.float64] = np.sqrt(-2 * np.log1p(-radius)) * np.cos(2 * np.pi * angle)
        return normal

    def integers(self, purpose: str, stop: NDArray[np.int64] | int) -> NDArray[np.int64]:
        """``(B,)`` whole numbers from 0 to ``stop - 1``."""
        return (self.uniform(purpose)[:, 0] * stop).astype(np.int64)

    def bits(self, purpose: str, count: int = 1) -> NDArray[np.uint64]:
        """``(B, count)`` numbers of 64 random bits."""
        stream = _mix(self._state ^ np.uint64(zlib.crc32(purpose.encode())))
        return _mix(stream[:, None] + np.arange(count, dtype=np.uint64) * np.uint64(_GOLDEN))


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x + np.uint64(_GOLDEN)
    for shift, factor in zip(_SHIFTS, (*_FACTORS, 1), strict=True):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x


def pixel_noise(states: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``(n, *shape)`` numbers of the standard normal distribution, drawn on the states' device.

    Args:
        states: ``(n,)`` int64, random bits of each image.
    """
    counter = torch.arange(math.prod(shape), device=states.device)
    x = states[:, None] + counter * _signed(_GOLDEN)
    for shift, factor in zip(_SHIFTS, (*_FACTORS, 1), strict=True):
        x = (x ^ ((x >> shift) & (2 ** (64 - shift) - 1))) * _signed(factor)  # a logical shift, of a signed integer
    low, high = x & 0xFFFFFF, (x >> 24) & 0xFFFFFF
    radius = (-2 * torch.log((low.float() + 1) * 2.0**-24)).sqrt()
    return (radius * torch.cos(high.float() * (2 * math.pi * 2.0**-24))).view(-1, *shape)


def _signed(value: int) -> int:
    """The int64 of the same 64 bits."""
    return value - 2**64 if value >= 2**63 else value
