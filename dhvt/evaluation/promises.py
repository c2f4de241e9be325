"""Whether a model's promises hold on labelled images: its prediction sets, what it calls unknown, and its scores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhvt.confidence.coverage import Coverage, measure_coverage
from dhvt.confidence.reference import Measured, Reference
from dhvt.confidence.rejection import Rejection, measure_rejection
from dhvt.confidence.scores import Calibration, bin_scores, measure_calibration
from dhvt.data.fingerprint import hash_images
from dhvt.data.sources import ImageSource, Subset
from dhvt.evaluation.calibration import reliability, softmax
from dhvt.evaluation.metrics import Outputs

ONLY_REFERENCE = "all of these images are reference images, so that they say nothing of the model's promises"


@dataclass(frozen=True, kw_only=True)
class Promises:
    """What was measured of each promise; empty where the reference allows none.

    Args:
        coverage: how often the right label is in the prediction set.
        rejection: how many known images are called unknown.
        calibration: how far scores are from the share that is right.
    """

    coverage: tuple[Coverage, ...] = ()
    rejection: tuple[Rejection, ...] = ()
    calibration: Calibration | None = None

    @property
    def _entries(self) -> list[Coverage | Rejection | Calibration]:
        return [*self.coverage, *self.rejection, *([] if self.calibration is None else [self.calibration])]

    @property
    def fault(self) -> str | None:
        """The promises that are broken, in words; None where none is."""
        return "; ".join(entry.fault for entry in self._entries if entry.fault is not None) or None

    def describe(self) -> list[str]:
        """One line for each."""
        return [entry.describe() for entry in self._entries]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON, without what was not measured."""
        calibration = None if self.calibration is None else self.calibration.to_dict()
        coverage, rejection = ([entry.to_dict() for entry in entries] for entries in (self.coverage, self.rejection))
        found = {"coverage": coverage, "rejection": rejection, "calibration": calibration}
        return {name: value for name, value in found.items() if value}


def leave_out_reference(outputs: Outputs, source: ImageSource, reference: Reference) -> Outputs:
    """The outputs of those of the source's images that are not reference images."""
    known = set(reference.hashes.tolist())
    others = np.array([value not in known for value in hash_images(Subset(source, outputs.indices))], dtype=bool)
    return replace(outputs, logits=outputs.logits[others], labels=outputs.labels[others], indices=outputs.indices[others])


def check_promises(outputs: Outputs, temperature: float, reference: Reference, precision: str) -> Promises:
    """The promises, measured on images that are not reference images; empty without one.

    Args:
        outputs: from an engine in this precision, see :func:`leave_out_reference`.
        temperature: the model's.
    """
    logits, labels = outputs.logits, outputs.labels
    if not len(labels):
        return Promises()
    measured, _ = reference.find(precision)
    scaled = logits / temperature
    promised = bin_scores(measured.top_score, measured.predicted == reference.labels)
    rejection: list[Rejection] = []
    if measured.novelty is not None and measured.index is not None:
        rejection = measure_rejection(measured.novelty, measured.index, logits)
    return Promises(
        coverage=tuple(measure_coverage(measured.true_score, softmax(scaled), labels)),
        rejection=tuple(rejection),
        calibration=measure_calibration(promised, len(reference), reliability(scaled, labels), len(labels)),
    )


@dataclass(frozen=True, kw_only=True)
class Promised:
    """A model's reference, and its logits for other images.

    Args:
        measured: of the reference images, in the precision of the logits.
        temperature: the model's.
        logits: ``(N, classes)``, of labelled images that are not reference images.
        labels: ``(N,)``, their classes.
        unknown: ``(U, classes)``, of images of other kinds; None without any.
    """

    measured: Measured
    temperature: float
    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    unknown: NDArray[np.float32] | None = None
