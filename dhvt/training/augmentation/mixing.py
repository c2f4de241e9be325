"""Mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019) of whole batches, as timm's with ``mode="batch"``.

An image is mixed with the one that is half a batch away. Those two are in the same process, however many share the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from dhvt.training.config import Recipe


@dataclass(frozen=True)
class Mixture:
    """What is done to all images of a step.

    Args:
        share: of the image itself in the result, 0 to 1.
        center: y and x, in fractions of a side, of the rectangle that cutmix takes from the other image; None for mixup.
    """

    share: float
    center: tuple[float, float] | None = None


def draw_mixture(recipe: Recipe, step: int) -> Mixture:
    """The mixture of a step, the same in all processes."""
    rng = np.random.default_rng([recipe.seed, 3, step])
    if rng.random() >= recipe.mix_prob:
        return Mixture(1.0)
    cuts = bool(recipe.cutmix) and (not recipe.mixup or rng.random() < recipe.switch_prob)
    alpha = recipe.cutmix if cuts else recipe.mixup
    share = float(rng.beta(alpha, alpha))
    return Mixture(share, (rng.random(), rng.random()) if cuts else None)


def mix(images: Tensor, targets: Tensor, mixture: Mixture) -> tuple[Tensor, Tensor]:
    """Mixed images ``(B, C, H, W)``, and their targets ``(B, num_classes)`` mixed in the same proportion."""
    other, share = images.roll(len(images) // 2, 0), mixture.share
    if mixture.center is None:
        images = other.lerp(images, share)
    else:
        top, bottom, left, right = _box(images.shape[2], images.shape[3], mixture)
        images = images.clone()
        images[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (images.shape[2] * images.shape[3])
    return images, targets.roll(len(targets) // 2, 0).lerp(targets, share)


def _box(height: int, width: int, mixture: Mixture) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of a rectangle of about ``1 - share`` of the area, which the image's borders cut."""
    assert mixture.center is not None
    bounds: list[int] = []
    for size, center in zip((height, width), mixture.center, strict=True):
        side, middle = int(size * (1 - mixture.share) ** 0.5), int(center * size)
        bounds += [max(middle - side // 2, 0), min(middle + (side + 1) // 2, size)]
    return bounds[0], bounds[1], bounds[2], bounds[3]
