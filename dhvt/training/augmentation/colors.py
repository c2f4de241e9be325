"""Operations on the colours of batches ``(B, 3, H, W)`` uint8: what Pillow's operations of these names do, for whole batches.

Those that treat each value of a channel by itself are tables of 256 entries; the others mix the image with a second one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dhvt.training.augmentation.geometry import to_device


def gray(images: Tensor) -> Tensor:
    """``(B, 1, H, W)`` int32, Pillow's ``L`` of each image."""
    red, green, blue = images.int().split(1, dim=1)
    luma: Tensor = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    return luma


def _black(images: Tensor) -> Tensor:
    return images.new_zeros((1, 1, 1, 1), dtype=torch.float32)


def _mean_gray(images: Tensor) -> Tensor:
    return (gray(images).float().mean(dim=(2, 3), keepdim=True) + 0.5).floor()


def _smooth(images: Tensor) -> Tensor:
    """Pillow's ``ImageFilter.SMOOTH``, which leaves the outermost pixels as they are."""
    kernel = images.new_ones((3, 1, 3, 3), dtype=torch.float32)
    kernel[:, :, 1, 1] = 5
    smooth = images.float()
    if min(images.shape[2:]) > 2:
        inner = functional.conv2d(smooth, kernel / 13, groups=3)
        smooth = smooth.clone()
        smooth[:, :, 1:-1, 1:-1] = (inner + 0.5).floor()
    return smooth


BLENDS: dict[str, Callable[[Tensor], Tensor]] = {
    "Brightness": _black,
    "Contrast": _mean_gray,
    "Color": lambda images: gray(images).float(),
    "Sharpness": _smooth,
}
"""By the name of Pillow's ``ImageEnhance``: the image that factor 0 gives."""


def blend(images: Tensor, name: str, factors: NDArray[np.float64]) -> Tensor:
    """``ImageEnhance``'s mixture: factor 0 gives the image of :data:`BLENDS`, 1 the image itself, more than 1 goes beyond."""
    base = BLENDS[name](images)
    factor = to_device(factors.astype(np.float32), images.device)[:, None, None, None]
    return (base + factor * (images.float() - base)).clamp_(0, 255).to(torch.uint8)


def look_up(images: Tensor, tables: Tensor) -> Tensor:
    """Replaces each value by its entry in the table ``(B, 3 or 1, 256)`` uint8 of its image and channel."""
    tables = tables.expand(-1, images.shape[1], -1)
    return tables.gather(2, images.flatten(2).long()).view_as(images)


def _histograms(images: Tensor) -> Tensor:
    """``(B, 3, 256)`` int64."""
    values = images.flatten(2).long()
    return torch.zeros((*values.shape[:2], 256), dtype=torch.int64, device=images.device).scatter_add_(
        2, values, torch.ones_like(values)
    )


def autocontrast_tables(images: Tensor, _: NDArray[np.float64]) -> Tensor:
    """Spreads each channel over 0 to 255."""
    low, high = (bound(images.flatten(2), 2).float()[..., None] for bound in (torch.amin, torch.amax))  # (B, 3, 1)
    values = torch.arange(256, device=images.device, dtype=torch.float32)
    spread = ((values - low) * 255 / (high - low).clamp(min=1) + 1e-3).clamp(0, 255)
    return torch.where(high > low, spread, values).to(torch.uint8)


def equalize_tables(images: Tensor, _: NDArray[np.float64]) -> Tensor:
    """Makes each channel's values about equally frequent."""
    histograms = _histograms(images)
    below = histograms.cumsum(2) - histograms
    last = histograms.gather(2, images.flatten(2).amax(2).long()[..., None])  # of the greatest value, (B, 3, 1)
    step = (images.shape[2] * images.shape[3] - last) // 255
    equal = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    return torch.where(step > 0, equal, torch.arange(256, device=images.device)).to(torch.uint8)


def _fixed(function: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.int64]]) -> Callable[..., Tensor]:
    """Tables that the argument alone decides."""

    def tables(images: Tensor, arguments: NDArray[np.float64]) -> Tensor:
        values = function(np.arange(256), arguments.astype(np.int64)[:, None])
        table = np.broadcast_to(values, (len(arguments), 256)).astype(np.uint8)
        return to_device(table, images.device)[:, None]

    return tables


TABLES: dict[str, Callable[[Tensor, NDArray[np.float64]], Tensor]] = {
    "AutoContrast": autocontrast_tables,
    "Equalize": equalize_tables,
    "Invert": _fixed(lambda value, _: 255 - value),
    "Posterize": _fixed(lambda value, bits: value & ~(2 ** (8 - np.clip(bits, 1, 8)) - 1)),
    "Solarize": _fixed(lambda value, threshold: np.where(value < threshold, value, 255 - value)),
    "SolarizeAdd": _fixed(lambda value, add: np.where(value < 128, np.minimum(value + add, 255), value)),
}
"""By operation: the tables of a batch and its arguments ``(B,)``, ``(B, 3 or 1, 256)`` uint8."""
