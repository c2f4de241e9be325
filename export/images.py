"""Images for an export: to compare runtimes on, and to calibrate int8 with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhvt.data.batches import Batch, iterate_batches
from dhvt.data.fingerprint import fingerprint
from dhvt.data.preprocess import Preprocess
from dhvt.data.record import require_unseen
from dhvt.data.sources import ImageSource, Subset
from dhvt.data.splits import reopen_training_data
from dhvt.errors import ExportError
from export.golden import draw_inputs
from export.parity import BATCH_SIZES

DRAWN_IMAGES = 2 * max(BATCH_SIZES)
REAL_IMAGES = 8 * DRAWN_IMAGES
"""Enough to tell accuracy to a point or two; ``dhvt verify --data`` runs all of a test set."""


@dataclass(frozen=True, kw_only=True)
class ExportImages:
    """Real, labelled images; where they are what the model was trained on, split as they were then.

    Args:
        calibration: to calibrate on.
        comparison: to compare and measure on.
        held_out: whether training did not learn from ``comparison``.
        on_error: called with a message for each image that cannot be read and is omitted.
    """

    calibration: ImageSource
    comparison: ImageSource
    held_out: bool
    on_error: Callable[[str], None]


def open_images(
    data: str, classes: Sequence[str], record: Mapping[str, Any], seed: int, on_error: Callable[[str], None]
) -> ExportImages:
    """Opens ``--data``; see :func:`dhvt.data.splits.reopen_training_data`.

    Raises:
        DataError: the images to compare on are those that the model was trained on.
    """
    calibration, comparison, held_out = reopen_training_data(data, classes, record, seed)
    if not held_out and "training" in record:
        hint = "give the training's --data or --val, or other images"
        require_unseen(fingerprint(comparison), record, ["training"], what=f"the images in {data} to compare on", hint=hint)
    return ExportImages(calibration=calibration, comparison=comparison, held_out=held_out, on_error=on_error)


def spread(source: ImageSource, count: int) -> Subset:
    """Up to ``count`` images of a data set, at equal distances over its whole length."""
    return Subset(source, np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(np.int64))


def sample(source: ImageSource, preprocess: Preprocess, count: int, on_error: Callable[[str], None] | None = None) -> Batch:
    """Up to ``count`` images of a data set, preprocessed, spread over its whole length.

    Raises:
        ExportError: not one of them can be read.
        DataError: one of them cannot be read and there is no ``on_error``.
    """
    batches = list(iterate_batches(spread(source, count), preprocess, 256, on_error=on_error))
    if not batches:
        raise ExportError(f"not one of the images can be read; the first is {source.locate(0)}")
    return Batch(*map(np.concatenate, zip(*batches, strict=True)))


def comparison_images(
    images: ExportImages | None, preprocess: Preprocess
) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
    """Images ``(N, H, W, 3)`` to compare on, and their labels; drawn ones, without labels, where there are no real ones."""
    if images is None:
        return draw_inputs(DRAWN_IMAGES, preprocess.size), None
    batch = sample(images.comparison, preprocess, REAL_IMAGES, images.on_error)
    return batch.images, batch.labels
