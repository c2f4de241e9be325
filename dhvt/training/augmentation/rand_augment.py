"""RandAugment (Cubuk et al. 2020) by timm's policies: what is drawn for each image, as timm draws it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from timm.data.auto_augment import RandAugment, rand_augment_transform
from torch import Tensor

from dhvt.errors import ConfigError
from dhvt.training.augmentation.draws import Draws
from dhvt.training.augmentation.operations import NO_OPERATION, apply

Floats = NDArray[np.float64]

_LARGEST_MAGNITUDE = 10.0  # timm's; a policy's mmax replaces it

_ARGUMENTS: dict[str, tuple[str, Callable[[Floats, Floats], Floats]]] = {
    # timm's name: the operation, and its argument of a strength (magnitude / 10) and a random sign
    "AutoContrast": ("AutoContrast", lambda strength, sign: strength),
    "Equalize": ("Equalize", lambda strength, sign: strength),
    "Invert": ("Invert", lambda strength, sign: strength),
    "Rotate": ("Rotate", lambda strength, sign: sign * strength * 30),
    "ShearX": ("ShearX", lambda strength, sign: sign * strength * 0.3),
    "ShearY": ("ShearY", lambda strength, sign: sign * strength * 0.3),
    "TranslateXRel": ("TranslateXRel", lambda strength, sign: sign * strength * 0.45),
    "TranslateYRel": ("TranslateYRel", lambda strength, sign: sign * strength * 0.45),
    "Posterize": ("Posterize", lambda strength, sign: np.floor(strength * 4)),
    "PosterizeIncreasing": ("Posterize", lambda strength, sign: 4 - np.floor(strength * 4)),
    "PosterizeOriginal": ("Posterize", lambda strength, sign: np.floor(strength * 4) + 4),
    "Solarize": ("Solarize", lambda strength, sign: np.minimum(np.floor(strength * 256), 256)),
    "SolarizeIncreasing": ("Solarize", lambda strength, sign: 256 - np.minimum(np.floor(strength * 256), 256)),
    "SolarizeAdd": ("SolarizeAdd", lambda strength, sign: np.minimum(np.floor(strength * 110), 128)),
    "Desaturate": ("Color", lambda strength, sign: np.clip(0.5 - 0.5 * strength, 0, 0.5)),
    "GaussianBlur": ("GaussianBlur", lambda strength, sign: np.clip(0.1 + 1.9 * strength, 0.1, 2.0)),
}
for _name in ("Color", "Contrast", "Brightness", "Sharpness"):
    _ARGUMENTS[_name] = (_name, lambda strength, sign: strength * 1.8 + 0.1)
    _ARGUMENTS[f"{_name}Increasing"] = (_name, lambda strength, sign: np.maximum(0.1, 1 + sign * strength * 0.9))


class BatchRandAugment:
    """A policy of timm's RandAugment.

    Args:
        policy: timm's name of it, as ``rand-m9-mstd0.5-inc1``.
        fill: the colour of what geometric operations show beyond the image.

    Raises:
        ConfigError: timm does not know the policy, or has an operation in it that is not known here.
    """

    def __init__(self, policy: str, fill: tuple[int, ...]) -> None:
        parsed = _parse(policy)
        self._fill = fill
        self._names = np.array([operation.name for operation in parsed.ops])
        self._layers, self._weights = parsed.num_layers, parsed.choice_weights
        first = parsed.ops[0]  # all have the same strength
        self._probability, self._magnitude, self._deviation = first.prob, float(first.magnitude), first.magnitude_std
        self._largest = float(first.magnitude_max or _LARGEST_MAGNITUDE)

    def __call__(self, images: Tensor, draws: Draws) -> None:
        """Changes ``images`` ``(B, 3, H, W)`` uint8 in place."""
        for layer, names in enumerate(self.choose(draws).T):
            operations, arguments = self.parametrize(names, layer, draws)
            is_bicubic = draws.uniform(f"resampling {layer}")[:, 0] < 0.5
            apply(images, operations, arguments, is_bicubic=is_bicubic, fill=self._fill)

    def choose(self, draws: Draws) -> NDArray[np.str_]:
        """``(B, layers)``: timm's names of each image's operations, of which each is then applied or not."""
        if self._weights is None:
            chosen = (draws.uniform("operations", self._layers) * len(self._names)).astype(np.int64)
        else:  # without repetition: the greatest of u^(1 / weight) (Efraimidis and Spirakis 2006)
            with np.errstate(divide="ignore"):
                keys = np.log(draws.uniform("operations", len(self._names))) / self._weights
            chosen = np.argsort(-keys, axis=1)[:, : self._layers]
        return self._names[chosen]

    def parametrize(self, names: NDArray[np.str_], layer: int, draws: Draws) -> tuple[NDArray[np.str_], Floats]:
        """One layer's operations ``(B,)``, none for images that are spared, and their arguments ``(B,)``."""
        is_applied = draws.uniform(f"application {layer}")[:, 0] < self._probability
        strength = self._draw_magnitudes(layer, draws) / _LARGEST_MAGNITUDE
        sign = np.where(draws.uniform(f"sign {layer}")[:, 0] < 0.5, -1.0, 1.0)
        operations = np.full(len(names), NO_OPERATION, dtype="U16")
        arguments = np.zeros(len(names))
        for name in np.unique(names):
            chosen = names == name
            operations[chosen], to_argument = _ARGUMENTS[str(name)]
            arguments[chosen] = to_argument(strength[chosen], sign[chosen])
        operations[~is_applied] = NO_OPERATION
        return operations, arguments

    def _draw_magnitudes(self, layer: int, draws: Draws) -> Floats:
        purpose = f"magnitude {layer}"
        if math.isinf(self._deviation):
            magnitudes = draws.uniform(purpose)[:, 0] * self._magnitude
        else:
            magnitudes = self._magnitude + draws.normal(purpose)[:, 0] * self._deviation
        return np.clip(magnitudes, 0.0, self._largest)


def _parse(policy: str) -> RandAugment:
    try:
        parsed: RandAugment = rand_augment_transform(policy, {})
        unknown = {operation.name for operation in parsed.ops} - _ARGUMENTS.keys()
    except (AssertionError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"auto_augment is {policy!r}, which timm cannot read ({error}); give as rand-m9-mstd0.5-inc1"
        ) from error
    if unknown:
        raise ConfigError(
            f"auto_augment is {policy!r} with the operations {', '.join(sorted(unknown))}, which are not known here"
        )
    return parsed
