"""Encoded images as a camera or a pipeline that has changed would send them, and what the model answers to each kind."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter
from tqdm import tqdm

from dhvt import Classifier
from dhvt.data.preprocess import preprocess_image
from dhvt.data.sources import ImageSource


def _encode(image: Image.Image, file_format: str = "PNG", **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


DISTURBANCES: dict[str, Callable[[Image.Image], bytes]] = {
    "blurred": lambda image: _encode(image.filter(ImageFilter.GaussianBlur(max(image.size) / 32))),
    "grey": lambda image: _encode(image.convert("L")),
    "darker": lambda image: _encode(ImageEnhance.Brightness(image).enhance(0.4)),
    "jpeg_quality_10": lambda image: _encode(image, "JPEG", quality=10),
}
"""From an RGB image to the disturbed file: a blur of one pixel in 32, no colour, 40 % of the brightness, JPEG quality 10."""


def disturb(image: bytes, kind: str) -> bytes:
    """The encoded image, disturbed; ``none`` leaves it as it is."""
    return image if kind == "none" else DISTURBANCES[kind](Image.open(io.BytesIO(image)).convert("RGB"))


def read_logits(classifier: Classifier, source: ImageSource, kind: str, cache: Path) -> NDArray[np.float32]:
    """The model's logits ``(N, classes)`` for a source's images, disturbed, decoded as the server does; kept in ``cache``."""
    if not cache.is_file():
        preprocess, logits = classifier.artifact.card.preprocess, []
        for start in tqdm(range(0, len(source), 64), desc=cache.stem):
            indices = range(start, min(start + 64, len(source)))
            images = [preprocess_image(disturb(source.read(index), kind), preprocess) for index in indices]
            logits.append(classifier.predict(np.stack(images)))
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.save(cache, np.concatenate(logits))
    found: NDArray[np.float32] = np.load(cache)
    return found
