"""Shifts, flips, affine maps and blurs of batches ``(B, C, H, W)`` uint8."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dhvt.training.augmentation.draws import Draws


def to_device(values: NDArray[np.generic], device: torch.device) -> Tensor:
    """A copy of some parameters, without waiting for the device."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def shift_and_flip(images: Tensor, draws: Draws, *, pad: tuple[int, int], padding_mode: str, flip: float) -> Tensor:
    """Cuts each image at random out of itself with a border, and mirrors some: ``(B, H, W, C)`` to ``(B, C, H, W)``.

    Args:
        pad: rows and columns of the border on each side.
        padding_mode: ``reflect`` mirrors the image, ``constant`` is black.
        flip: probability that an image is mirrored.
    """
    height, width = images.shape[1:3]
    rows = np.arange(height) + (draws.integers("shift of rows", 2 * pad[0] + 1) - pad[0])[:, None]  # (B, H)
    columns = np.arange(width) + (draws.integers("shift of columns", 2 * pad[1] + 1) - pad[1])[:, None]
    columns = np.where(draws.uniform("flip") < flip, columns[:, ::-1], columns)
    inside_rows, inside_columns = _reflect(rows, height), _reflect(columns, width)
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    at_rows, at_columns = to_device(inside_rows, images.device), to_device(inside_columns, images.device)
    shifted = images[batch, at_rows[:, :, None], at_columns[:, None, :]]  # (B, H, W, C)
    if padding_mode == "constant":
        seen = (
            to_device(inside_rows == rows, images.device)[:, :, None]
            & to_device(inside_columns == columns, images.device)[:, None]
        )
        shifted = shifted * seen[..., None]
    return shifted.permute(0, 3, 1, 2).contiguous()


def _reflect(positions: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    positions = np.abs(positions)
    return np.where(positions >= size, 2 * (size - 1) - positions, positions)


def affine(images: Tensor, matrices: NDArray[np.float64], is_bicubic: NDArray[np.bool_], fill: Tensor) -> Tensor:
    """What Pillow's ``Image.transform`` with ``AFFINE`` makes of each image, with a matrix for each.

    Args:
        matrices: ``(B, 2, 3)``, from the result's coordinates to the image's, in pixels.
        is_bicubic: ``(B,)``, bilinear elsewhere.
        fill: ``(C,)`` uint8, of what lies outside the image.
    """
    count, channels, height, width = images.shape
    x, y = _source_coordinates(matrices, height, width, images.device)  # (B, H, W)
    outside = (x < 0) | (x >= width) | (y < 0) | (y >= height)
    x, y = x - 0.5, y - 0.5
    left, top = x.floor(), y.floor()
    bicubic = to_device(is_bicubic, images.device)[:, None, None, None]
    weights_x, weights_y = _taps(x - left, bicubic), _taps(y - top, bicubic)  # (B, 4, H, W)
    offsets = torch.arange(-1, 3, device=images.device)[:, None, None]
    columns = (left.long()[:, None] + offsets).clamp_(0, width - 1)  # (B, 4, H, W)
    rows = (top.long()[:, None] + offsets).clamp_(0, height - 1) * width
    pixels = images.flatten(2).float()  # (B, C, HW)
    total = torch.zeros_like(pixels)
    for row, weight in zip(rows.unbind(1), weights_y.unbind(1), strict=True):
        at = (row[:, None] + columns).view(count, 1, -1).expand(-1, channels, -1)
        taps = pixels.gather(2, at).view(count, channels, 4, -1)
        total += (taps * weights_x.flatten(2)[:, None]).sum(2) * weight.flatten(1)[:, None]
    # Pillow cuts the fraction off; a thousandth is added, so that rounding errors do not turn a whole number
    # into the one below.
    sampled = (total + 1e-3).clamp_(0, 255).to(torch.uint8).view_as(images)
    return torch.where(outside[:, None], fill[:, None, None], sampled)


def _source_coordinates(matrices: NDArray[np.float64], height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where each pixel's centre lies in its image: x and y, each ``(B, H, W)``."""
    m = to_device(matrices.astype(np.float32), device)[..., None, None]  # (B, 2, 3, 1, 1)
    x = torch.arange(width, device=device) + 0.5
    y = (torch.arange(height, device=device) + 0.5)[:, None]
    return m[:, 0, 0] * x + m[:, 0, 1] * y + m[:, 0, 2], m[:, 1, 0] * x + m[:, 1, 1] * y + m[:, 1, 2]


def _taps(t: Tensor, is_bicubic: Tensor) -> Tensor:
    """The weights of four neighbours at a fraction ``(B, H, W)`` behind the second: Pillow's cubic (a = -1), or linear."""
    square, cube = t * t, t * t * t
    cubic = torch.stack((-t + 2 * square - cube, 1 - 2 * square + cube, t + square - cube, cube - square), dim=1)
    linear = torch.stack((torch.zeros_like(t), 1 - t, t, torch.zeros_like(t)), dim=1)
    return torch.where(is_bicubic, cubic, linear)


def blur(images: Tensor, radii: NDArray[np.float64]) -> Tensor:
    """What Pillow's ``GaussianBlur`` makes of each image, with a radius for each: three box filters in either direction."""
    down = to_device(_blur_matrices(images.shape[2], radii), images.device)[:, None]  # (B, 1, H, H)
    across = to_device(_blur_matrices(images.shape[3], radii), images.device)[:, None]
    return (down @ images.float() @ across.mT).round_().clamp_(0, 255).to(torch.uint8)


def _blur_matrices(size: int, radii: NDArray[np.float64]) -> NDArray[np.float32]:
    """``(B, size, size)``: Pillow's three passes of a box filter along one side, as one matrix each.

    The two outermost pixels of a box with a fractional radius count by its fraction (Gwosdek et al. 2011).
    """
    passes = 3
    sigma2 = (radii**2 / passes)[:, None, None]
    length = np.sqrt(12 * sigma2 + 1)
    whole = np.floor((length - 1) / 2)
    fraction = (2 * whole + 1) * (whole * (whole + 1) - 3 * sigma2) / (6 * (sigma2 - (whole + 1) ** 2))
    reach = int(whole.max()) + 1
    offsets = np.arange(-reach, reach + 1)
    kernel = np.where(np.abs(offsets) <= whole, 1.0, np.where(np.abs(offsets) == whole + 1, fraction, 0.0))
    kernel /= 2 * (whole + fraction) + 1  # (B, 1, 2 reach + 1)
    matrices = np.zeros((len(radii), size, size))
    at = np.clip(np.arange(size)[:, None] + offsets, 0, size - 1)  # (size, 2 reach + 1); the border is repeated
    for column in range(len(offsets)):
        matrices[:, np.arange(size), at[:, column]] += kernel[:, 0, column, None]
    return np.linalg.matrix_power(matrices, passes).astype(np.float32)
