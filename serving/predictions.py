"""Logits to what a client reads."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray


class Prediction(TypedDict):
    """One class and its probability, 0 to 1."""

    label: str
    score: float


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities of ``(classes,)`` or ``(B, classes)`` logits."""
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: NDArray[np.float32] = exponents / exponents.sum(axis=-1, keepdims=True)
    return probabilities


def top_predictions(logits: NDArray[np.float32], classes: list[str], top_k: int) -> list[Prediction]:
    """The ``top_k`` most likely classes (all, if there are fewer), best first."""
    scores = softmax(logits)
    order = np.argsort(-scores, kind="stable")[:top_k]
    return [{"label": classes[index], "score": round(float(scores[index]), 6)} for index in order]
