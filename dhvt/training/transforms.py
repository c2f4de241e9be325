"""What training does to its images: augmentation of each image on the CPU, and of batches on the device.

Every random draw comes from the global generators, which are seeded before each image and each step. A further
augmentation is one more entry in :func:`build_transform`, and its strength or probability a field of :class:`Recipe` whose
default turns it off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image, ImageOps
from timm.data.auto_augment import RandAugment, posterize, rand_augment_transform
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2

from dhvt.data.preprocess import Preprocess
from dhvt.model.inference import Normalize
from dhvt.training.config import Recipe

SMALLEST_ASPECT_RATIO = 3 / 4
"""Of a random crop, and its inverse is the largest; torchvision's and timm's usual range."""


def build_transform(preprocess: Preprocess, recipe: Recipe) -> v2.Compose:
    """The augmentation of one image, from an RGB image to uint8 ``(3, H, W)``."""
    height, width = preprocess.size
    steps: list[Callable[..., Any]] = []
    if recipe.crop == "pad":
        steps.append(v2.RandomCrop(preprocess.size, padding=(width // 8, height // 8), padding_mode=recipe.padding_mode))
    else:
        steps.append(
            v2.RandomResizedCrop(
                preprocess.size,
                scale=(recipe.resized_min_area, 1.0),
                ratio=(SMALLEST_ASPECT_RATIO, 1 / SMALLEST_ASPECT_RATIO),
                interpolation=v2.InterpolationMode.BICUBIC,
            )
        )
    steps.append(v2.RandomHorizontalFlip(recipe.flip))
    if recipe.color_jitter:
        strength = recipe.color_jitter
        steps.append(v2.ColorJitter(strength, strength, strength))
    if recipe.auto_augment:
        steps.append(_build_rand_augment(preprocess, recipe.auto_augment))
    return v2.Compose([*steps, v2.PILToTensor()])


def _build_rand_augment(preprocess: Preprocess, policy: str) -> RandAugment:
    """timm's RandAugment, but that it never asks for an image of 0 bits.

    At their greatest strength timm's increasing policies posterize to 0 bits. Older versions of Pillow made a black image
    of that, from 13 on it is a ValueError.
    """
    fill = tuple(round(255 * value) for value in preprocess.mean)
    hparams = {"translate_const": round(min(preprocess.size) * 0.45), "img_mean": fill}
    augment: RandAugment = rand_augment_transform(policy, hparams)
    for operation in augment.ops:
        if operation.aug_fn is posterize:
            operation.aug_fn = _posterize
    return augment


def _posterize(image: Image.Image, bits_to_keep: int, **_: Any) -> Image.Image:
    """The image with 1 to 8 bits per channel."""
    return image if bits_to_keep >= 8 else ImageOps.posterize(image, max(bits_to_keep, 1))


class BatchTransform:
    """What is done to a batch on the device: normalisation, scaling, random erasing, mixup and cutmix.

    Args:
        preprocess: mean and standard deviation of the images.
        num_classes: that labels may name.
        size_multiple: what an image's sides must be a multiple of; 0 where the model cannot change its size.
    """

    def __init__(
        self, recipe: Recipe, preprocess: Preprocess, device: torch.device, *, num_classes: int, size_multiple: int
    ) -> None:
        self.recipe, self.size_multiple = recipe, size_multiple
        self._normalize = Normalize(preprocess).to(device)
        self._erase = _build_erasing(recipe, device)
        self._mixup = _build_mixup(recipe, num_classes)

    def __call__(self, images: Tensor, labels: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        """Images ``(B, 3, H, W)`` uint8 as network inputs, and labels ``(B,)`` as what the loss compares with: themselves,
        or ``(B, num_classes)`` probabilities where images are mixed.

        Args:
            progress: of the training, 0 to 1.
        """
        inputs = self._erase(self._rescale(self._normalize(images.permute(0, 2, 3, 1)), progress))
        if self._mixup is None:
            return inputs, labels
        mixed: tuple[Tensor, Tensor] = self._mixup(inputs, labels)
        return mixed

    @property
    def label_smoothing(self) -> float:
        """What is left to the loss: mixed targets are smoothed already."""
        return self.recipe.label_smoothing if self._mixup is None else 0.0

    def _rescale(self, inputs: Tensor, progress: float) -> Tensor:
        scale = self.recipe.scale_at(progress)
        if scale == 1 or not self.size_multiple:
            return inputs
        size = [max(round(side * scale / self.size_multiple), 1) * self.size_multiple for side in inputs.shape[-2:]]
        return functional.interpolate(inputs, size, mode="bilinear", antialias=True)


def _build_erasing(recipe: Recipe, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Random erasing of normalised batches ``(B, 3, H, W)``, in place, each pixel drawn by itself."""
    if not recipe.random_erasing:
        return lambda images: images
    erase: Callable[[Tensor], Tensor] = RandomErasing(recipe.random_erasing, mode="pixel", device=str(device))
    return erase


def _build_mixup(recipe: Recipe, num_classes: int) -> Mixup | None:
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
