"""Images for an export: to compare runtimes on, and to calibrate int8 with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhvt.data.batches import Batch, iterate_batches
from dhvt.data.fingerprint import fingerprint
from dhvt.data.preprocess import Preprocess
from dhvt.data.record import Record, record_source, require_unseen, warn_of_overlaps
from dhvt.data.reopen import open_training_split, reopen_training_data
from dhvt.data.sources import ImageSource, Subset
from dhvt.data.splits import open_first_split
from dhvt.errors import ExportError
from export.golden import draw_inputs
from export.parity import BATCH_SIZES
from export.settings import ExportOptions

DRAWN_IMAGES = 2 * max(BATCH_SIZES)
COMPARISON_IMAGES = 5000
"""The most that are compared on; see also ``export/targets/int8.py``."""

REAL_IMAGES = 8 * DRAWN_IMAGES
"""Enough to tell accuracy to a point or two; ``dhvt verify --data`` runs all of a test set."""


@dataclass(frozen=True, kw_only=True)
class ExportImages:
    """Real, labelled images; where they are what the model was trained on, split as they were then.

    Args:
        calibration: to calibrate on.
        comparison: to compare and measure on.
        known: the fingerprints of the images that the model was made with, see :data:`dhvt.data.record.Record`.
        on_error: called with a message for each image that cannot be read and is omitted.
        split_as_trained: whether ``comparison`` is known to be what the training held out; copies in it are accepted then.
    """

    calibration: ImageSource
    comparison: ImageSource
    known: Record
    on_error: Callable[[str], None]
    split_as_trained: bool = False


def open_images(
    options: ExportOptions, classes: Sequence[str], known: Record, seed: int, on_error: Callable[[str], None]
) -> ExportImages | None:
    """Opens ``--data`` and ``--val``; None without them.

    Args:
        classes: the model's.
        known: the ``data`` of its checkpoint or model card.
        seed: of the training's recipe, which decided what was held out.

    Raises:
        ExportError: there is a ``val`` without ``data``.
        DataError: nothing usable is there, or the images to compare on are those that the model was trained on, unless the
            training itself held them out of a data set that has copies; that is logged.
    """
    if options.data is None:
        if options.val is not None:
            raise ExportError(f"--val {options.val} needs --data, the images to calibrate with")
        return None
    split_as_trained = False
    if options.val is None:
        calibration, comparison, split_as_trained = reopen_training_data(options.data, classes, known, seed)
    else:
        calibration = open_training_split(options.data, classes, known, seed)
        comparison = open_first_split(options.val, ["val", "test"], classes).source
    compared, what = (
        fingerprint(spread(comparison, COMPARISON_IMAGES)),
        f"the images in {options.val or options.data} to compare on",
    )
    if split_as_trained:
        warn_of_overlaps(compared, known, ["training"], what=what)
    else:
        hint = "give what was given to dhvt train as --val, or other images, with --val"
        require_unseen(compared, known, ["training"], what=what, hint=hint)
    return ExportImages(
        calibration=calibration, comparison=comparison, known=known, on_error=on_error, split_as_trained=split_as_trained
    )


def spread(source: ImageSource, count: int) -> Subset:
    """Up to ``count`` images of a data set, spread over its whole length."""
    return Subset(source, np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(np.int64))


def sample(source: ImageSource, preprocess: Preprocess, count: int, on_error: Callable[[str], None] | None = None) -> Batch:
    """The images of :func:`spread`, preprocessed.

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


def describe_compared(images: ExportImages | None) -> dict[str, Any]:
    """The kind of :func:`comparison_images`, and the record of real ones, for a variant's ``parity``."""
    if images is None:
        return {"images": "drawn"}
    return {"images": "real", "data": record_source(spread(images.comparison, REAL_IMAGES))}
