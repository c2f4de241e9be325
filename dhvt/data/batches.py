"""Decoded images in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from dhvt.data.preprocess import Preprocess, preprocess_image
from dhvt.data.sources import ImageSource
from dhvt.errors import DataError, ImageError

T = TypeVar("T")


class Batch(NamedTuple):
    """Preprocessed images ``(B, H, W, 3)`` uint8, their labels and their indices in the source, each ``(B,)`` int64."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    indices: NDArray[np.int64]


def read_pixels(source: ImageSource, preprocess: Preprocess, index: int) -> NDArray[np.uint8] | ImageError:
    """One preprocessed image ``(H, W, 3)`` uint8, or the error that prevents it."""
    try:
        return preprocess_image(source.read(index), preprocess)
    except ImageError as error:
        return error


def iterate_batches(
    source: ImageSource,
    preprocess: Preprocess,
    batch_size: int,
    on_error: Callable[[str], None] | None = None,
    pixels: Iterable[NDArray[np.uint8] | ImageError] | None = None,
) -> Iterator[Batch]:
    """Yields the preprocessed images of a source in order, in batches.

    Args:
        on_error: called with a message for each unreadable image, which is then omitted; ``None`` raises instead.
        pixels: the results of :func:`read_pixels` in order, where other processes have read the images.

    Raises:
        DataError: an image cannot be read, with its location, when ``on_error`` is None.
    """
    images: list[NDArray[np.uint8]] = []
    indices: list[int] = []
    if pixels is None:
        pixels = (read_pixels(source, preprocess, index) for index in range(len(source)))
    for index, found in enumerate(pixels):
        if isinstance(found, ImageError):
            message = f"{source.locate(index)}: {found}"
            if on_error is None:
                raise DataError(message) from found
            on_error(message)
        else:
            images.append(found)
            indices.append(index)
        if images and (len(images) == batch_size or index == len(source) - 1):
            rows = np.array(indices, dtype=np.int64)
            yield Batch(np.stack(images), source.labels[rows], rows)
            images, indices = [], []


Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Images ``(B, H, W, 3)`` uint8 to logits ``(B, classes)`` float32."""


def split(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of ``size``, each made when it is asked for; the last may be shorter."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
