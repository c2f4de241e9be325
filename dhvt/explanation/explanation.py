"""What an explanation is: maps over an image, with what they are of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dhvt.explanation.drawing import enlarge, normalize, overlay, panel, to_png

MASKING, HEAD_TOKENS, ROLLOUT = METHODS = ("masking", "head-tokens", "rollout")
DEFAULT_METHOD = MASKING
"""The most faithful one as measured: docs/explanations.md."""


@dataclass(frozen=True)
class Map:
    """One map.

    Args:
        name: such as ``masking`` or ``head token 1``.
        values: ``(rows, columns)`` over the whole of the network's input: from masking by how much the class is more likely
            where the place is shown; else attention in multiples of an even spread over the patches.
    """

    name: str
    values: NDArray[np.float32]


@dataclass(frozen=True)
class Explanation:
    """Maps of what in an image an answer depends on.

    Args:
        method: one of :data:`METHODS`.
        label: the class that is explained; attention is the same for every class.
        score: its calibrated probability.
        pixels: the network's input ``(H, W, 3)`` uint8, on which the maps lie.
        maps: those of the method.
        masks: masked images that were classified.
        layer: whose attention it is, from 1.
    """

    method: str
    label: str
    score: float
    pixels: NDArray[np.uint8] = field(repr=False)
    maps: tuple[Map, ...] = field(repr=False)
    masks: int | None = None
    layer: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``size`` is the height and width that the maps are spread over."""
        settings = {"masks": self.masks, "layer": self.layer}
        return {
            "method": self.method,
            "label": self.label,
            "score": round(self.score, 6),
            "size": list(self.pixels.shape[:2]),
            **{name: value for name, value in settings.items() if value is not None},
            "maps": [{"name": each.name, "values": _round(each.values)} for each in self.maps],
        }

    def draw(self) -> Image.Image:
        """The image, and beside it each map over it, with their names and the values of the lightest colour."""
        tiles = [(enlarge(self.pixels), "the network's input")]
        for each in self.maps:
            shares = normalize(each.values, from_zero=self.method == MASKING)
            tiles.append((overlay(self.pixels, shares), f"{each.name}\n{self._describe_range(each.values)}"))
        return panel(self._describe(), tiles)

    def to_png(self) -> bytes:
        """:meth:`draw`, as a PNG file."""
        return to_png(self.draw())

    def _describe(self) -> str:
        what = f"{self.masks} masks" if self.layer is None else f"layer {self.layer}, the same for every class"
        return f"{self.label} {self.score:.1%}: {self.method}, {what}"

    def _describe_range(self, values: NDArray[np.float32]) -> str:
        if self.method == MASKING:
            return f"yellow: {max(float(values.max()), 0):+.2f} where shown"
        return f"{values.min():.1f} to {values.max():.1f} times even"


def _round(values: NDArray[np.float32]) -> list[list[float]]:
    """To four digits after the point, which a map does not hold anyway."""
    rounded: list[list[float]] = np.round(values.astype(np.float64), 4).tolist()
    return rounded
