"""Preprocessing: from an encoded image to the network's uint8 input, in evaluation and serving alike."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dhvt.configuration import as_size, require, require_choice
from dhvt.data.decode import DEFAULT_MAX_PIXELS, REDUCING_GAP, decode_rgb
from dhvt.data.levels import WhiteLevels

_RESAMPLING = {name.lower(): value for name, value in Image.Resampling.__members__.items()}


ResizeMode = Literal["crop", "squash", "pad"]


Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]


IMAGENET_MEAN = (0.485, 0.456, 0.406)


IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How an encoded image becomes the network's input, in training's validation, evaluation and serving alike.

    Args:
        size: ``(height, width)`` in pixels of the network's input.
        resize_mode: ``crop`` scales the shorter side and cuts the centre out, ``squash`` scales both sides
            independently, ``pad`` scales the longer side and fills with the mean colour.
        crop_pct: with ``crop``, the share of the scaled shorter side that is kept, in (0, 1];
            224 of 256 is 0.875. An image that already has ``size`` is left as it is when this is 1.
        interpolation: Pillow's name of the resampling filter.
        mean, std: per channel, of RGB scaled to 0..1; they are applied inside the exported graph.
        integer_white, float_white: the values that are white in grey images of 16 or 32 bits and of floats, as found in the
            training images; None in models that did not record them, see :class:`~dhvt.data.levels.WhiteLevels`.
    """

    size: tuple[int, int]
    resize_mode: ResizeMode = "crop"
    crop_pct: float = 1.0
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    integer_white: int | None = None
    float_white: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", as_size(self.size))
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        require_choice("resize_mode", self.resize_mode, ResizeMode)
        require_choice("interpolation", self.interpolation, Interpolation)
        require(0 < self.crop_pct <= 1, f"crop_pct is {self.crop_pct}; it must be in (0, 1]")
        require(len(self.mean) == 3 and len(self.std) == 3, "mean and std need one value for each of R, G and B")
        require(all(value > 0 for value in self.std), f"std is {self.std}; each value must be positive")
        for name in ("integer_white", "float_white"):
            value = getattr(self, name)
            require(value is None or value > 0, f"{name} is {value}; it must be more than 0")

    @property
    def white(self) -> WhiteLevels:
        """The values that are white in images of more than 8 bits."""
        return WhiteLevels(self.integer_white, self.float_white)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for a checkpoint or JSON; without what is not recorded, so that older models' digests stay."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def resize(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """Brings an RGB image to ``preprocess.size`` by its ``resize_mode``; one of that size already stays as it is."""
    height, width = preprocess.size
    if image.size == (width, height) and preprocess.crop_pct == 1:
        return image
    resample = _RESAMPLING[preprocess.interpolation]
    if preprocess.resize_mode == "squash":
        return image.resize((width, height), resample, reducing_gap=REDUCING_GAP)
    if preprocess.resize_mode == "pad":
        fill = tuple(round(255 * value) for value in preprocess.mean)
        return ImageOps.pad(image, (width, height), resample, color=fill)
    scale = preprocess.crop_pct * min(image.width / width, image.height / height)
    left, top = (image.width - width * scale) / 2, (image.height - height * scale) / 2
    box = (max(left, 0.0), max(top, 0.0), min(left + width * scale, image.width), min(top + height * scale, image.height))
    return image.resize((width, height), resample, box=box, reducing_gap=REDUCING_GAP)


def preprocess_image(data: bytes, preprocess: Preprocess, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> NDArray[np.uint8]:
    """An encoded image as the network's input, ``(H, W, 3)`` uint8 RGB.

    Raises:
        ImageError: see :func:`decode_rgb`.
    """
    image = decode_rgb(data, max_pixels=max_pixels, at_least=preprocess.size, white=preprocess.white)
    return np.asarray(resize(image, preprocess))
