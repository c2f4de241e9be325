"""Rankings: an image's classes by score, from an engine's logits."""

from __future__ import annotations

from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from dhvt.artifact import ModelCard
from dhvt.evaluation.calibration import softmax


class Prediction(TypedDict):
    """One class and its probability, 0 to 1."""

    label: str
    score: float


class Ranking(NamedTuple):
    """The classes of one image, best first: their indices and calibrated scores, ``(classes,)`` each.

    ``logits`` are what the engine gave, in the order of the classes.
    """

    indices: NDArray[np.intp]
    scores: NDArray[np.float64]
    logits: NDArray[np.float32]

    def top(self, card: ModelCard, top_k: int) -> list[Prediction]:
        """The ``top_k`` most likely classes, or all if there are fewer, best first."""
        pairs = zip(self.indices[:top_k].tolist(), self.scores[:top_k].tolist(), strict=True)
        return [{"label": card.classes[index], "score": round(score, 6)} for index, score in pairs]


def rank(logits: NDArray[np.float32], card: ModelCard) -> list[Ranking]:
    """Returns a ranking for each image of a batch.

    Args:
        logits: ``(B, classes)``.
        card: the model's; its temperature calibrates the scores.
    """
    scores = softmax(logits / card.temperature)
    order = np.argsort(-scores, axis=-1, kind="stable")
    return list(map(Ranking, order, np.take_along_axis(scores, order, axis=-1), logits))
