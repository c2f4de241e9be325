"""What an answer is worth, on request: labels that contain the right one as often as asked, and whether the image is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

from dhvt.artifact import Artifact
from dhvt.confidence import known, sets
from dhvt.confidence.reference import Reference, load_reference
from dhvt.errors import ConfigError
from dhvt.ranking import Ranking

EXAMPLES = {"coverage": "0.95", "reject": "0.01"}
"""Of values, for messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked of each answer beside its predictions.

    Args:
        coverage: the share of images, between 0 and 1, whose right label shall be in the prediction set; None for no set.
        by_class: whether the coverage shall hold within each class, and not only on average over all.
        reject: the share of images like the reference that may be called unknown; None for no such answer.

    Raises:
        ConfigError: a share is not between 0 and 1, or ``by_class`` is without ``coverage``.
    """

    coverage: float | None = None
    by_class: bool = False
    reject: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("coverage", self.coverage), ("reject", self.reject)):
            if value is not None and not 0 < value < 1:
                raise ConfigError(f"{name} is {value:g}; it must be between 0 and 1, as {EXAMPLES[name]}")
        if self.by_class and self.coverage is None:
            raise ConfigError("by_class needs coverage, as 0.95")

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
        self._index: known.NoveltyIndex | None = None
        if self.reference is not None:
            measured, self.measured_in = self.reference.find(precision)
            self._true_scores = np.sort(measured.true_score)
            self._thresholds = lru_cache(8)(
                partial(sets.find_class_thresholds, measured.true_score, self.reference.labels, len(self._classes))
            )
            self._smallest_class = int(np.bincount(self.reference.labels, minlength=len(self._classes)).min())
            if measured.novelty is not None and measured.index is not None:
                self._index, self._novelty = known.NoveltyIndex(measured.index), np.sort(measured.novelty)

    def require(self, asked: Asked) -> None:
        """Raises ConfigError where the model cannot answer this."""
        if asked and self.reference is None:
            name = "coverage" if asked.coverage is not None else "reject"
            raise ConfigError(
                f"this model has no reference images, which {name} needs; dhvt calibrate --model … --data … gives it some"
            )
        if asked.reject is None or self.reference is None:
            return
        if self._index is None:
            raise ConfigError("this model's reference has no novelty scores, which reject needs; run dhvt calibrate again")
        if len(self.reference) < (least := known.least_images(asked.reject)):
            raise ConfigError(
                f"reject {asked.reject:g} needs {least} reference images, and this model has {len(self.reference)}; ask for a "
                "larger share, or run dhvt calibrate with more images"
            )

    def assess(self, ranking: Ranking, asked: Asked) -> dict[str, Any]:
        """The fields of one image's answer: ``prediction_set`` with ``coverage``, ``p_known`` and ``known`` with ``reject``.

        Args:
            asked: that :meth:`require` accepts.
        """
        found = {} if asked.coverage is None else self._find_set(ranking, asked.coverage, asked.by_class)
        return found if asked.reject is None else found | self._judge(ranking, asked.reject)

    def _judge(self, ranking: Ranking, reject: float) -> dict[str, Any]:
        """The p-value of the image, and whether it is above the rejected share."""
        assert self._index is not None
        p_known = float(known.p_values(self._novelty, self._index.score(ranking.logits[None]))[0])
        return {"p_known": round(p_known, 6), "known": p_known > reject}

    def _find_set(self, ranking: Ranking, coverage: float, by_class: bool) -> dict[str, Any]:
        """The prediction set, and ``prediction_set_note`` where the reference is too small for what was asked."""
        assert self.reference is not None
        thresholds = (
            self._thresholds(coverage)[ranking.indices] if by_class else sets.find_threshold(self._true_scores, coverage)
        )
        chosen = ranking.indices[sets.choose_labels(ranking.scores, thresholds)]
        found: dict[str, Any] = {"prediction_set": [self._classes[index] for index in chosen.tolist()]}
        least = sets.least_images(coverage)
        if len(self.reference) < least:
            found["prediction_set_note"] = (
                f"every label: coverage {coverage:g} needs {least} reference images, and this model has {len(self.reference)}"
            )
        elif by_class and self._smallest_class < least:
            found["prediction_set_note"] = (
                f"coverage {coverage:g} by class needs {least} reference images of each class, and one has "
                f"{self._smallest_class}: for classes with fewer it holds on average over these classes"
            )
        return found

    def describe(self) -> dict[str, Any] | None:
        """What the reference is good for, as ``/info`` shows it; None without one."""
        if self.reference is None:
            return None
        return {
            "images": len(self.reference),
            "largest_coverage": sets.largest_coverage(len(self.reference)),
            "smallest_reject": None if self._index is None else math.ceil(1e6 / (len(self.reference) + 1)) / 1e6,
            "precision": self.precision,
            "measured_in": self.measured_in,
        }
