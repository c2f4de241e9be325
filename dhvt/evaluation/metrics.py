"""How good a classifier is on labelled images, whatever runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from dhvt.data.batches import Predict, iterate_batches
from dhvt.data.preprocess import Preprocess
from dhvt.data.sources import ImageSource
from dhvt.errors import DataError, ImageError
from dhvt.evaluation.calibration import expected_calibration_error, negative_log_likelihood


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a classifier said of the N images of a source that could be read.

    Args:
        logits: ``(N, classes)`` float32.
        labels: ``(N,)`` int64, the right answers.
        indices: ``(N,)`` int64, the images' places in the source.
        skipped: how many could not be read.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    indices: NDArray[np.int64]
    skipped: int

    @classmethod
    def join(cls, parts: Sequence[Outputs]) -> Outputs:
        """Those of several parts of one source, in the source's order."""
        indices = np.concatenate([part.indices for part in parts])
        order = np.argsort(indices)
        return cls(
            logits=np.concatenate([part.logits for part in parts])[order],
            labels=np.concatenate([part.labels for part in parts])[order],
            indices=indices[order],
            skipped=sum(part.skipped for part in parts),
        )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Measured on ``images`` images; ``skipped`` more were broken.

    Args:
        top1, top5: accuracy in percent.
        ece: expected calibration error in percent, of the scores as they are served.
        nll: mean negative log-likelihood of the right class, in nats, likewise.
    """

    images: int
    skipped: int
    top1: float
    top5: float
    ece: float
    nll: float

    def to_dict(self) -> dict[str, float | int]:
        """Plain numbers, for JSON."""
        return asdict(self)


def collect_outputs(
    predict: Predict,
    source: ImageSource,
    preprocess: Preprocess,
    *,
    batch_size: int = 64,
    on_error: Callable[[str], None] | None = None,
    on_progress: Callable[[int], None] | None = None,
    pixels: Iterable[NDArray[np.uint8] | ImageError] | None = None,
) -> Outputs:
    """Runs a classifier over a source; of an empty one, as a process's share may be, there are no outputs.

    Args:
        on_error: called for each broken image, which is left out and counted; ``None`` raises instead.
        on_progress: called with the number of images in each batch done.
        pixels: see :func:`dhvt.data.splits.iterate_batches`.

    Raises:
        DataError: a broken image without ``on_error``, or none of them can be read.
    """
    logits: list[NDArray[np.float32]] = [np.zeros((0, len(source.classes)), np.float32)]
    labels: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    indices: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    for batch in iterate_batches(source, preprocess, batch_size, on_error, pixels):
        logits.append(predict(batch.images))
        labels.append(batch.labels)
        indices.append(batch.indices)
        if on_progress is not None:
            on_progress(len(batch.labels))
    places = np.concatenate(indices)
    if len(source) and not len(places):
        raise DataError("not one of the images can be read")
    return Outputs(
        logits=np.concatenate(logits), labels=np.concatenate(labels), indices=places, skipped=len(source) - len(places)
    )


def evaluate(outputs: Outputs, temperature: float = 1.0) -> Evaluation:
    """Accuracy and calibration.

    Args:
        temperature: what the logits are divided by before they become scores.
    """
    order = np.argsort(-outputs.logits, axis=1)[:, :5]
    hits = order == outputs.labels[:, None]
    scaled = outputs.logits / temperature
    return Evaluation(
        images=len(outputs.labels),
        skipped=outputs.skipped,
        top1=100 * float(hits[:, 0].mean()),
        top5=100 * float(hits.any(axis=1).mean()),
        ece=100 * expected_calibration_error(scaled, outputs.labels),
        nll=negative_log_likelihood(scaled, outputs.labels),
    )
