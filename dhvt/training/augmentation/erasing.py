"""Random erasing (Zhong et al. 2020) of normalised batches, as timm's with ``mode="pixel"``."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dhvt.training.augmentation.draws import Draws, pixel_noise
from dhvt.training.augmentation.geometry import to_device

_AREAS = (0.02, 1 / 3)  # of the image's
_SMALLEST_ASPECT_RATIO = 0.3
_ATTEMPTS = 10


def draw_rectangles(draws: Draws, height: int, width: int) -> NDArray[np.int64]:
    """``(B, 4)``: top, left, height and width of a random rectangle; of no height where none of ten fitted."""
    area = height * width * (_AREAS[0] + (_AREAS[1] - _AREAS[0]) * draws.uniform("erased area", _ATTEMPTS))
    log_ratio = math.log(_SMALLEST_ASPECT_RATIO)
    ratio = np.exp(log_ratio - 2 * log_ratio * draws.uniform("erased ratio", _ATTEMPTS))
    heights, widths = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))  # (B, attempts)
    fits = (heights < height) & (widths < width)
    first = fits.argmax(axis=1)[:, None]
    heights, widths = (np.take_along_axis(sides, first, 1)[:, 0].astype(np.int64) for sides in (heights, widths))
    heights[~fits.any(axis=1)] = 0
    top = draws.integers("erased top", height - heights + 1)
    left = draws.integers("erased left", width - widths + 1)
    return np.stack((top, left, heights, widths), axis=1)


def erase(images: Tensor, draws: Draws, probability: float) -> None:
    """Replaces a rectangle of some images ``(B, C, H, W)`` by noise, in place."""
    chosen = np.flatnonzero(draws.uniform("erasing")[:, 0] < probability)
    if not len(chosen):
        return
    device, (height, width) = images.device, images.shape[2:]
    top, left, rows, columns = to_device(draw_rectangles(draws, height, width)[chosen], device)[..., None].unbind(1)
    y, x = torch.arange(height, device=device), torch.arange(width, device=device)
    is_erased = ((y >= top) & (y < top + rows))[:, :, None] & ((x >= left) & (x < left + columns))[:, None]  # (n, H, W)
    at = to_device(chosen, device)
    noise = pixel_noise(to_device(draws.bits("erasing noise")[chosen, 0].view(np.int64), device), tuple(images.shape[1:]))
    images.index_copy_(0, at, torch.where(is_erased[:, None], noise.to(images.dtype), images.index_select(0, at)))
