"""The colour map of the overlays: viridis, even to the eye, also in grey and for the colour-blind."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_VIRIDIS = ("440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725")
"""Colours at equal distances, those between are interpolated."""

_TABLE = np.array([[int(color[start : start + 2], 16) for start in (0, 2, 4)] for color in _VIRIDIS], np.float32)


def colorize(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Colours ``(…, 3)``, 0 to 255, of values from 0 to 1."""
    places = np.clip(values, 0, 1) * (len(_TABLE) - 1)
    low = np.minimum(places.astype(np.intp), len(_TABLE) - 2)
    share = (places - low)[..., None]
    colors: NDArray[np.float32] = (_TABLE[low] * (1 - share) + _TABLE[low + 1] * share).astype(np.float32)
    return colors
