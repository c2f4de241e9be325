"""Explanation by masking, for one class of any model: how much more likely the class is where a place is shown than where it is
hidden, over many random masks (RISE: Petsiuk, Das and Saenko, 2018).

A mask is a coarse grid of cells, shown or hidden with equal chance, enlarged smoothly and shifted at random. Every mask comes
with its opposite, and the map is the covariance of score and mask over the mask's variance: both make a map of few masks less
noisy than RISE's mean of masks. What is hidden has the colour that the network sees as zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

DEFAULT_MASKS = 400
LEAST_MASKS = 2
CELLS = 6
"""Of the shorter side of the image."""


class MaskingMap:
    """Makes masked images, and a map of the scores that they got.

    Args:
        pixels: the network's input, ``(H, W, 3)`` uint8.
        fill: RGB, 0 to 255, of what is hidden.
        masks: how many; an odd number leaves the last opposite out.
        seed: of the masks.
        cells: see :data:`CELLS`.
    """

    def __init__(
        self, pixels: NDArray[np.uint8], fill: NDArray[np.float32], *, masks: int, seed: int = 0, cells: int = CELLS
    ) -> None:
        self._pixels, self._fill = pixels.astype(np.float32), fill.astype(np.float32)
        self._masks = masks
        height, width = size = pixels.shape[:2]
        self._side = min(height, width) / cells
        pairs, shape = (masks + 1) // 2, [math.ceil(length / self._side) + 2 for length in size]
        rng = np.random.default_rng(seed)
        self._grids = rng.integers(0, 2, (pairs, *shape), np.uint8)
        self._shifts = rng.random((pairs, 2), np.float32)  # in cells
        self._waiting: NDArray[np.float32] | None = None
        self._count, self._score = 0, 0.0
        self._mask, self._square, self._product = (np.zeros(size, np.float64) for _ in range(3))

    def batches(self, size: int) -> Iterator[NDArray[np.uint8]]:
        """Masked images ``(B, H, W, 3)``, at most ``size`` at once; each batch's scores go to :meth:`add` before the next."""
        for start in range(0, self._masks, size):
            self._waiting = self._draw(start, min(start + size, self._masks))
            masked = self._fill + self._waiting[..., None] * (self._pixels - self._fill)
            yield masked.round().astype(np.uint8)

    def add(self, scores: NDArray[np.floating]) -> None:
        """The class's scores ``(B,)`` of the last batch."""
        assert self._waiting is not None
        self._count += len(self._waiting)
        self._score += float(scores.sum())
        self._mask += self._waiting.sum(axis=0)
        self._square += (self._waiting**2).sum(axis=0)
        self._product += np.tensordot(scores.astype(np.float64), self._waiting, axes=1)
        self._waiting = None

    def map(self) -> NDArray[np.float32]:
        """``(H, W)``: by how much the class is more likely where this pixel is shown than where it is hidden, -1 to 1."""
        mean = self._mask / self._count
        variance = self._square / self._count - mean**2
        covariance = self._product / self._count - mean * self._score / self._count
        slope: NDArray[np.float64] = np.divide(covariance, variance, out=np.zeros_like(mean), where=variance > 1e-6)
        return slope.astype(np.float32)

    def _draw(self, start: int, end: int) -> NDArray[np.float32]:
        """The masks of these numbers ``(B, H, W)``, 1 where the image is shown: a mask, its opposite, the next mask, …"""
        height, width = self._pixels.shape[:2]
        numbers = np.arange(start, end)
        grids, shifts = self._grids[numbers // 2].astype(np.float32), self._shifts[numbers // 2]
        rows = _interpolation(height, self._side, shifts[:, 0], grids.shape[1])
        columns = _interpolation(width, self._side, shifts[:, 1], grids.shape[2])
        masks = (rows @ grids @ columns.transpose(0, 2, 1)).astype(np.float32, copy=False)
        opposite = numbers % 2 == 1
        masks[opposite] = 1 - masks[opposite]
        return masks


def _interpolation(length: int, side: float, shift: NDArray[np.float32], cells: int) -> NDArray[np.float32]:
    """Weights ``(B, length, cells)`` that enlarge linearly a row of cells of so many pixels, moved by shares of a cell."""
    places = (np.arange(length) + 0.5) / side + shift[:, None]  # in cells
    weights: NDArray[np.float64] = np.clip(1 - np.abs(places[:, :, None] - np.arange(cells)), 0, None)
    return weights.astype(np.float32)
