"""What training does to its batches, from uint8 images to network inputs, on the device that trains.

What is drawn for an image is a function of the seed, the epoch, the image and the repeat; how images are mixed, of the seed and
the step. A further augmentation is one more step in :class:`BatchTransform`, and its strength or probability a field of
:class:`Recipe` whose default turns it off.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dhvt.data.preprocess import Preprocess
from dhvt.model.inference import Normalize
from dhvt.training.augmentation.draws import Draws
from dhvt.training.augmentation.erasing import erase
from dhvt.training.augmentation.geometry import shift_and_flip
from dhvt.training.augmentation.mixing import draw_mixture, mix
from dhvt.training.augmentation.operations import apply
from dhvt.training.augmentation.rand_augment import BatchRandAugment
from dhvt.training.config import Recipe

_JITTERED = np.array(["Brightness", "Contrast", "Color"])


class BatchTransform:
    """What is done to a batch on the device: augmentation, normalisation, scaling, random erasing, mixup and cutmix.

    Args:
        preprocess: size, mean and standard deviation of the images.
        num_classes: that labels may name.
        size_multiple: what an image's sides must be a multiple of; 0 where the model cannot change its size.

    Raises:
        ConfigError: timm does not know the recipe's RandAugment policy.
    """

    def __init__(
        self, recipe: Recipe, preprocess: Preprocess, device: torch.device, *, num_classes: int, size_multiple: int
    ) -> None:
        self.recipe, self.num_classes, self.size_multiple = recipe, num_classes, size_multiple
        height, width = preprocess.size
        self._pad = (height // 8, width // 8) if recipe.crop == "pad" else (0, 0)
        self._fill = tuple(round(255 * value) for value in preprocess.mean)
        self._rand_augment = BatchRandAugment(recipe.auto_augment, self._fill) if recipe.auto_augment else None
        self._normalize = Normalize(preprocess).to(device)

    def __call__(self, images: Tensor, labels: Tensor, draws: Draws, step: int, progress: float) -> tuple[Tensor, Tensor]:
        """Network inputs ``(B, 3, h, w)``, and what the loss compares with: the labels, or ``(B, num_classes)`` probabilities
        where images are mixed.

        Args:
            images: ``(B, H, W, 3)`` uint8.
            labels: ``(B,)``.
            draws: the images' random numbers.
            step: of the training.
            progress: of the training, 0 to 1.
        """
        inputs = self._rescale(self._normalize(self.augment(images, draws).permute(0, 2, 3, 1)), progress)
        if self.recipe.random_erasing:
            erase(inputs, draws, self.recipe.random_erasing)
        if not self.recipe.mixes():
            return inputs, labels
        targets = functional.one_hot(labels, self.num_classes).float()
        return mix(inputs, targets, draw_mixture(self.recipe, step))

    def augment(self, images: Tensor, draws: Draws) -> Tensor:
        """``(B, H, W, 3)`` uint8 as ``(B, 3, H, W)`` uint8: cropped, mirrored, and changed in colour and form."""
        recipe = self.recipe
        images = shift_and_flip(images, draws, pad=self._pad, padding_mode=recipe.padding_mode, flip=recipe.flip)
        if recipe.color_jitter:
            self._jitter(images, draws)
        if self._rand_augment is not None:
            self._rand_augment(images, draws)
        return images

    def _jitter(self, images: Tensor, draws: Draws) -> None:
        """Brightness, contrast and saturation in a random order, in place."""
        strength = self.recipe.color_jitter
        low, high = max(0.0, 1 - strength), 1 + strength
        factors = low + (high - low) * draws.uniform("jitter", len(_JITTERED))
        order = draws.uniform("jitter order", len(_JITTERED)).argsort(axis=1)
        unused = np.zeros(len(images), dtype=np.bool_)
        for chosen in order.T:
            arguments = np.take_along_axis(factors, chosen[:, None], 1)[:, 0]
            apply(images, _JITTERED[chosen], arguments, is_bicubic=unused, fill=self._fill)

    def _rescale(self, inputs: Tensor, progress: float) -> Tensor:
        scale = self.recipe.scale_at(progress)
        if scale == 1 or not self.size_multiple:
            return inputs
        size = [max(round(side * scale / self.size_multiple), 1) * self.size_multiple for side in inputs.shape[-2:]]
        return functional.interpolate(inputs, size, mode="bilinear", antialias=True)
