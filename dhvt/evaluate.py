"""How good a classifier is on labelled pictures, whatever runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from dhvt.config import Preprocess
from dhvt.data import ImageSource, iterate_batches
from dhvt.errors import DataError

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Images ``(B, H, W, 3)`` uint8 to logits ``(B, classes)`` float32."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Accuracy in percent over ``images`` pictures; ``skipped`` more were broken."""

    images: int
    skipped: int
    top1: float
    top5: float

    def to_dict(self) -> dict[str, float | int]:
        """Plain numbers, for JSON."""
        return asdict(self)


def evaluate(
    predict: Predict,
    source: ImageSource,
    cfg: Preprocess,
    *,
    batch_size: int = 64,
    on_error: Callable[[str], None] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Top-1 and top-5 accuracy.

    Args:
        on_error: called for each broken picture, which is left out and counted; ``None`` raises instead.
        on_progress: called with the number of pictures in each batch done.

    Raises:
        DataError: a broken picture without ``on_error``, or no readable picture at all.
    """
    count, hits1, hits5 = 0, 0, 0
    for images, labels in iterate_batches(source, cfg, batch_size, on_error):
        logits = predict(images)
        order = np.argsort(-logits, axis=1)[:, :5]
        hits1 += int((order[:, 0] == labels).sum())
        hits5 += int((order == labels[:, None]).any(axis=1).sum())
        count += len(labels)
        if on_progress is not None:
            on_progress(len(labels))
    if not count:
        raise DataError("not one of the pictures can be read")
    return Evaluation(images=count, skipped=len(source) - count, top1=100 * hits1 / count, top5=100 * hits5 / count)
