"""What an image looks like, as a 64-bit hash and a few pixels, so that copies are found that were scaled or saved again.

The hash is pHash, the signs of an image's lowest frequencies (Zauner 2010). ``imagehash`` computes the same and is well kept,
but brings SciPy and PyWavelets, 40 MB, for what is a matrix product here; ``cleanvision`` brings pandas and matplotlib too,
and takes images for near duplicates only where their hashes are equal.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE = 32  # pixels that the frequencies are computed from
_FREQUENCIES = 8
_GREY_SIDE = 16
_COLOR_SIDE = 8

NEEDED_SIZE = (_SIDE, _SIDE)
"""``at_least`` of :func:`dhvt.data.decode.decode_rgb`."""

BLANK_DEVIATION = 2.0
"""Standard deviation of the grey values, of 255, below which an image shows nothing."""


class Appearance(NamedTuple):
    """Args:
    hash: 64-bit pHash.
    greys: 256 bytes, 16×16.
    colors: 192 bytes, 8×8 RGB.
    is_blank: the image is of one colour, so that its hash is noise.
    """

    hash: int
    greys: bytes
    colors: bytes
    is_blank: bool


def _cosines() -> NDArray[np.float32]:
    """``(8, 32)``: the lowest rows of the discrete cosine transform, type II."""
    frequency, place = np.arange(_FREQUENCIES)[:, None], np.arange(_SIDE)
    return np.cos(np.pi * frequency * (2 * place + 1) / (2 * _SIDE)).astype(np.float32)


_COSINES = _cosines()


def describe_appearance(image: Image.Image) -> Appearance:
    """The appearance of an upright RGB image."""
    small = image.resize((_SIDE, _SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    small_grey = small.convert("L")
    grey = np.asarray(small_grey, dtype=np.float32)
    waves = (_COSINES @ grey @ _COSINES.T).ravel()
    bits = waves > np.median(waves)
    return Appearance(
        hash=int.from_bytes(np.packbits(bits).tobytes(), "big"),
        greys=small_grey.resize((_GREY_SIDE, _GREY_SIDE), Image.Resampling.BOX).tobytes(),
        colors=small.resize((_COLOR_SIDE, _COLOR_SIDE), Image.Resampling.BOX).tobytes(),
        is_blank=bool(grey.std() < BLANK_DEVIATION),
    )
