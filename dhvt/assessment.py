"""What an answer is worth, on request: the labels that contain the right one as often as asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dhvt.artifact import Artifact
from dhvt.confidence.reference import Reference, load_reference
from dhvt.confidence.sets import count_labels, find_threshold, least_images
from dhvt.errors import ConfigError
from dhvt.ranking import Ranking

EXAMPLES = {"coverage": "0.95", "reject": "0.01"}
"""Of values, for messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked of each answer beside its predictions.

    Args:
        coverage: the share of images, between 0 and 1, whose right label shall be in the prediction set; None for no set.
        reject: the share of images like the reference that may be called unknown; None for no such answer.

    Raises:
        ConfigError: one of them is not between 0 and 1.
    """

    coverage: float | None = None
    reject: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("coverage", self.coverage), ("reject", self.reject)):
            if value is not None and not 0 < value < 1:
                raise ConfigError(f"{name} is {value:g}; it must be between 0 and 1, as {EXAMPLES[name]}")

    def __bool__(self) -> bool:
        return self.coverage is not None or self.reject is not None


class Assessor:
    """Answers what is :class:`Asked`, from an artifact's reference in the precision of the engine that serves.

    Args:
        artifact: with or without a reference.
        precision: of the engine.

    Raises:
        ArtifactError: the reference cannot be read.
    """

    def __init__(self, artifact: Artifact, precision: str) -> None:
        self._classes, self.precision = artifact.card.classes, precision
        self.reference: Reference | None = load_reference(artifact)
        if self.reference is not None:
            measured, self.measured_in = self.reference.find(precision)
            self._true_scores = np.sort(measured.true_score)

    def require(self, asked: Asked) -> None:
        """Raises ConfigError where the model cannot answer this."""
        if asked and self.reference is None:
            name = "coverage" if asked.coverage is not None else "reject"
            raise ConfigError(
                f"this model has no reference images, which {name} needs; dhvt calibrate --model … --data … gives it some"
            )
        if asked.reject is not None:
            raise ConfigError("this model's reference has no novelty scores, which reject needs; run dhvt calibrate again")

    def assess(self, ranking: Ranking, asked: Asked) -> dict[str, Any]:
        """The fields of one image's answer: ``prediction_set``, and ``prediction_set_note`` where it has all labels by need.

        Args:
            asked: that :meth:`require` accepts.
        """
        if asked.coverage is None or self.reference is None:
            return {}
        threshold = find_threshold(self._true_scores, asked.coverage)
        count = count_labels(ranking.scores, threshold)
        found: dict[str, Any] = {"prediction_set": [self._classes[index] for index in ranking.indices[:count].tolist()]}
        if np.isinf(threshold):
            found["prediction_set_note"] = (
                f"every label: coverage {asked.coverage:g} needs {least_images(asked.coverage)} reference images, and this "
                f"model has {len(self.reference)}"
            )
        return found

    def describe(self) -> dict[str, Any] | None:
        """What the reference is good for, as ``/info`` shows it; None without one."""
        if self.reference is None:
            return None
        return {
            "images": len(self.reference),
            "largest_coverage": round(len(self.reference) / (len(self.reference) + 1), 6),
            "precision": self.precision,
            "measured_in": self.measured_in,
        }
