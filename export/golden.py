"""Images of an artifact's self-test, drawn by code, so that no photograph is shipped."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image, ImageDraw

SIZES = ((32, 32), (96, 64), (57, 120), (200, 200))  # as it is, wide, high, and larger than most inputs


def draw_images() -> list[bytes]:
    """Four PNG files of different shapes: shapes, colours, gradients and noise."""
    return [_encode(_draw(size, seed)) for seed, size in enumerate(SIZES)]


def draw_inputs(count: int, size: tuple[int, int]) -> np.ndarray:
    """``(count, height, width, 3)`` uint8 for comparing runtimes where there are no real images."""
    height, width = size
    return np.stack([np.asarray(_draw((width, height), seed)) for seed in range(count)])


def _draw(size: tuple[int, int], seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    width, height = size
    ramp = np.linspace(0, 255, width)[None, :, None] * rng.random(3) + np.linspace(0, 255, height)[:, None, None] * rng.random(
        3
    )
    image = Image.fromarray((ramp / 2 + rng.normal(0, 6, (height, width, 3))).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(5):
        x, y = rng.random(2) * (width, height) * 0.7
        w, h = (0.1 + 0.3 * rng.random(2)) * (width, height)
        color = tuple(int(value) for value in rng.integers(0, 256, 3))
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((float(x), float(y), float(x + w), float(y + h)), fill=color)
    return image


def _encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def encode_base64(images: list[bytes]) -> list[str]:
    """The images as text, for JSON."""
    return [base64.b64encode(image).decode("ascii") for image in images]
