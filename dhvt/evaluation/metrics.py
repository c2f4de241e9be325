"""Accuracy and calibration of a classifier on labelled images, whatever runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from dhvt.data.batches import Predict, iterate_batches
from dhvt.data.preprocess import Preprocess
from dhvt.data.sources import ImageSource
from dhvt.errors import DataError, EngineError, ImageError
from dhvt.evaluation.calibration import (
    calibration_error_interval,
    cross_fit_temperatures,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
)


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """A classifier's logits for the N images of a source that could be read.

    Args:
        logits: ``(N, classes)`` float32.
        labels: ``(N,)`` int64, the right classes.
        indices: ``(N,)`` int64, the images' indices in the source.
        skipped: number of images that could not be read.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    indices: NDArray[np.int64]
    skipped: int

    @classmethod
    def join(cls, shares: Sequence[Outputs]) -> Outputs:
        """The outputs of several shares of one source, in the source's order."""
        indices = np.concatenate([share.indices for share in shares])
        order = np.argsort(indices)
        return cls(
            logits=np.concatenate([share.logits for share in shares])[order],
            labels=np.concatenate([share.labels for share in shares])[order],
            indices=indices[order],
            skipped=sum(share.skipped for share in shares),
        )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures of a classifier on labelled images.

    Args:
        images: number of images measured.
        skipped: number of images that could not be read.
        top1, top5: accuracy in percent.
        balanced_accuracy: mean over the classes of the part of their images that is classified correctly, in percent; see
            :func:`balanced_accuracy`.
        macro_f1: mean of the classes' F1 in percent, see :func:`macro_f1`.
        ece: expected calibration error in percent, of the scores at the temperature.
        ece_low, ece_high: where that of endless images like these may lie, see :func:`calibration_error_interval`.
        nll: mean negative log-likelihood of the right class at the temperature, in nats.
    """

    images: int
    skipped: int
    top1: float
    top5: float
    balanced_accuracy: float
    macro_f1: float
    ece: float
    ece_low: float
    ece_high: float
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
    """Runs a classifier over a source. An empty source, as a process's share may be, gives empty outputs.

    Args:
        on_error: called for each unreadable image, which is omitted and counted; ``None`` raises instead.
        on_progress: called with the number of images in each batch done.
        pixels: see :func:`dhvt.data.batches.iterate_batches`.

    Raises:
        DataError: an image cannot be read and ``on_error`` is None, or none of them can be.
        EngineError: the logits of an image are not finite, so that nothing can be measured with them.
    """
    logits: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    indices: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    for batch in iterate_batches(source, preprocess, batch_size, on_error, pixels):
        logits.append(predict(batch.images))
        if not (finite := np.isfinite(logits[-1]).all(axis=1)).all():
            raise EngineError(f"the logits of {source.locate(int(batch.indices[finite.argmin()]))} are not finite")
        labels.append(batch.labels)
        indices.append(batch.indices)
        if on_progress is not None:
            on_progress(len(batch.labels))
    places = np.concatenate(indices)
    if len(source) and not len(places):
        raise DataError(f"none of the images in {source.origin} can be read")
    return Outputs(
        logits=np.concatenate(logits) if logits else np.zeros((0, len(source.classes)), np.float32),
        labels=np.concatenate(labels),
        indices=places,
        skipped=len(source) - len(places),
    )


def evaluate(outputs: Outputs, temperature: float | NDArray[np.float64] = 1.0) -> Evaluation:
    """Accuracy and calibration.

    Args:
        temperature: what the logits are divided by before they become scores; one, or ``(N,)``.
    """
    matrix = confusion_matrix(outputs.logits, outputs.labels)
    correct = np.argsort(-outputs.logits, axis=1, kind="stable")[:, :5] == outputs.labels[:, None]
    scaled = outputs.logits / np.asarray(temperature, dtype=np.float64).reshape(-1, 1)
    low, high = calibration_error_interval(scaled, outputs.labels)
    return Evaluation(
        images=len(outputs.labels),
        skipped=outputs.skipped,
        top1=100 * float(correct[:, 0].mean()),
        top5=100 * float(correct.any(axis=1).mean()),
        balanced_accuracy=balanced_accuracy(matrix),
        macro_f1=macro_f1(matrix),
        ece=100 * expected_calibration_error(scaled, outputs.labels),
        ece_low=100 * low,
        ece_high=100 * high,
        nll=negative_log_likelihood(scaled, outputs.labels),
    )


def confusion_matrix(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """``(classes, classes)`` counts of images: row the true class, column the predicted one.

    Args:
        logits: ``(N, classes)``.
        labels: ``(N,)``.
    """
    matrix = np.zeros((logits.shape[1], logits.shape[1]), dtype=np.int64)
    np.add.at(matrix, (labels, logits.argmax(axis=1)), 1)
    return matrix


def balanced_accuracy(matrix: NDArray[np.int64]) -> float:
    """Mean recall in percent of the classes that have an image: each class counts alike, however many images it has.

    Args:
        matrix: of :func:`confusion_matrix`.
    """
    counts = matrix.sum(axis=1)
    return 100 * float((matrix.diagonal()[counts > 0] / counts[counts > 0]).mean())


def macro_f1(matrix: NDArray[np.int64]) -> float:
    """Mean F1 in percent of the classes that have an image or were predicted.

    F1 is the harmonic mean of precision and recall. Unlike balanced accuracy, it falls where images of a large class are
    taken for a small one.

    Args:
        matrix: of :func:`confusion_matrix`.
    """
    named = matrix.sum(axis=1) + matrix.sum(axis=0)
    return 100 * float((2 * matrix.diagonal()[named > 0] / named[named > 0]).mean())


def calibrate(outputs: Outputs, groups: Sequence[str] | None = None) -> tuple[Evaluation, float]:
    """The figures on held-out images, and the temperature for serving, which is fitted on all of them.

    Calibration error and log loss are cross-fitted: each image is scored at a temperature that was fitted on others, see
    :func:`cross_fit_temperatures`. Otherwise they would be too good.

    Args:
        groups: of all images of the source, which folds do not divide; by default each image is one.
    """
    own = None if groups is None else [groups[index] for index in outputs.indices]
    evaluation = evaluate(outputs, cross_fit_temperatures(outputs.logits, outputs.labels, groups=own))
    return evaluation, fit_temperature(outputs.logits, outputs.labels)
