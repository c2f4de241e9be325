"""Overlays: a map drawn over its image, and a panel of several with their names."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dhvt.explanation.colors import colorize

TILE = 224
"""Pixels of an image's longer side, at least."""

_COLUMNS = 4
_GAP, _LINE, _FONT_SIZE = 12, 20, 14
_LEAST_OPACITY, _MOST_OPACITY = 0.25, 0.75
"""Of the smallest and of the largest value: the image is seen best where there is little."""


def normalize(values: NDArray[np.floating], *, from_zero: bool) -> NDArray[np.float32]:
    """Values from 0 to 1: the largest is 1, and 0 is the smallest, or with ``from_zero`` 0 and what is less."""
    low = 0.0 if from_zero else float(values.min())
    spread = float(values.max()) - low
    return np.clip((values - low) / spread, 0, 1).astype(np.float32) if spread > 0 else np.zeros(values.shape, np.float32)


def overlay(pixels: NDArray[np.uint8], shares: NDArray[np.float32]) -> Image.Image:
    """The map's colours over the image, which is drawn in grey so that all colour is the map's.

    Args:
        pixels: ``(H, W, 3)``.
        shares: from 0 to 1, of any height and width; spread over the whole image.
    """
    image = enlarge(pixels)
    grey = np.asarray(image.convert("L"), np.float32)[..., None]
    heat = Image.fromarray(shares).resize(image.size, Image.Resampling.BICUBIC)
    values = np.clip(np.asarray(heat, np.float32), 0, 1)
    opacity = (_LEAST_OPACITY + (_MOST_OPACITY - _LEAST_OPACITY) * values)[..., None]
    return Image.fromarray((grey * (1 - opacity) + colorize(values) * opacity).round().astype(np.uint8))


def enlarge(pixels: NDArray[np.uint8]) -> Image.Image:
    """The image at a size that people see."""
    image = Image.fromarray(pixels)
    scale = max(TILE / max(image.size), 1)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)


def panel(title: str, tiles: Sequence[tuple[Image.Image, str]]) -> Image.Image:
    """Images of one size side by side, at most four in a row, each with lines of text below, under a title."""
    width, height = tiles[0][0].size
    columns = min(len(tiles), _COLUMNS)
    rows = math.ceil(len(tiles) / columns)
    lines = max(text.count("\n") + 1 for _, text in tiles)
    row_height = height + lines * _LINE + _GAP
    sheet = Image.new("RGB", (columns * (width + _GAP) + _GAP, 2 * _GAP + _LINE + rows * row_height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE)
    draw.text((_GAP, _GAP), title, fill="black", font=font)
    for number, (image, text) in enumerate(tiles):
        left = _GAP + number % columns * (width + _GAP)
        top = 2 * _GAP + _LINE + number // columns * row_height
        sheet.paste(image, (left, top))
        for line, words in enumerate(text.split("\n")):
            draw.text((left, top + height + 2 + line * _LINE), words, fill="black", font=font)
    return sheet


def to_png(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
