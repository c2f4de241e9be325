"""The operations of RandAugment and of colour jitter by name, each image of a batch with its own operation and argument."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dhvt.training.augmentation.colors import BLENDS, TABLES, blend, look_up
from dhvt.training.augmentation.geometry import affine, blur, to_device

GEOMETRY = ("ShearX", "ShearY", "TranslateXRel", "TranslateYRel", "Rotate")
BLUR = "GaussianBlur"
OPERATIONS = (*GEOMETRY, BLUR, *TABLES, *BLENDS)
NO_OPERATION = ""


def apply(
    images: Tensor,
    operations: NDArray[np.str_],
    arguments: NDArray[np.float64],
    *,
    is_bicubic: NDArray[np.bool_],
    fill: tuple[int, ...],
) -> None:
    """Changes ``images`` ``(B, 3, H, W)`` uint8 in place, each by one operation.

    Args:
        operations: ``(B,)``, names of :data:`OPERATIONS`, or :data:`NO_OPERATION`.
        arguments: ``(B,)``: a factor of a blend or shear, degrees, a fraction of a side, a radius, bits, or a threshold.
        is_bicubic: ``(B,)``, of geometric operations, which are bilinear else.
        fill: what they show beyond the image.
    """
    geometric = np.flatnonzero(np.isin(operations, GEOMETRY))
    if len(geometric):
        at = to_device(geometric, images.device)
        height, width = images.shape[2:]
        matrices = np.stack([_matrix(str(operations[i]), float(arguments[i]), width, height) for i in geometric])
        color = torch.tensor(fill, dtype=torch.uint8, device=images.device)
        images.index_copy_(0, at, affine(images.index_select(0, at), matrices, is_bicubic[geometric], color))
    for name in (BLUR, *TABLES, *BLENDS):
        chosen = np.flatnonzero(operations == name)
        if len(chosen):
            at = to_device(chosen, images.device)
            images.index_copy_(0, at, _change(images.index_select(0, at), name, arguments[chosen]))


def _change(images: Tensor, name: str, arguments: NDArray[np.float64]) -> Tensor:
    if name == BLUR:
        return blur(images, arguments)
    if name in BLENDS:
        return blend(images, name, arguments)
    return look_up(images, TABLES[name](images, arguments))


def _matrix(name: str, argument: float, width: int, height: int) -> NDArray[np.float64]:
    """``(2, 3)``: from the result's pixels to the image's."""
    matrix = np.eye(2, 3)
    if name == "Rotate":
        sine, cosine = np.sin(np.radians(argument)), np.cos(np.radians(argument))
        matrix[:, :2] = [[cosine, -sine], [sine, cosine]]
        center = np.array([width / 2, height / 2])
        matrix[:, 2] = center - matrix[:, :2] @ center
    else:
        row, column, scale = {
            "ShearX": (0, 1, 1),
            "ShearY": (1, 0, 1),
            "TranslateXRel": (0, 2, width),
            "TranslateYRel": (1, 2, height),
        }[name]
        matrix[row, column] = argument * scale
    return matrix
