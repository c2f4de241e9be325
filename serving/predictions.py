"""Logits to what a client reads."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from dhvt.artifact import ModelCard
from dhvt.calibration import softmax


class Prediction(TypedDict):
    """One class and its probability, 0 to 1."""

    label: str
    score: float


def top_predictions(logits: NDArray[np.float32], card: ModelCard, top_k: int) -> list[Prediction]:
    """The ``top_k`` most likely classes (all, if there are fewer), best first, with calibrated scores.

    Args:
        logits: ``(classes,)``.
        card: of the model that gave them.
    """
    scores = softmax(logits / card.temperature)
    order = np.argsort(-scores, kind="stable")[:top_k]
    return [{"label": card.classes[index], "score": round(float(scores[index]), 6)} for index in order]
