"""The mistakes of a model, and the labels that are most likely wrong."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dhvt.evaluation.calibration import softmax
from dhvt.evaluation.metrics import Outputs

MOST = 24
"""Mistakes, and suspicious labels, that a report shows."""


class Prediction(NamedTuple):
    """One image: its place in the source, its true and its predicted class, and the probabilities of the two."""

    place: int
    true: int
    predicted: int
    confidence: float
    true_probability: float


def find_mistakes(outputs: Outputs, temperature: float) -> list[Prediction]:
    """The images that are classified wrongly, those of the most confident predictions first."""
    probabilities = softmax(outputs.logits / temperature)
    predicted = probabilities.argmax(axis=1)
    rows = np.flatnonzero(predicted != outputs.labels)
    order = np.argsort(-probabilities[rows, predicted[rows]], kind="stable")
    return _describe(outputs, probabilities, predicted, rows[order])


def find_suspicious_labels(outputs: Outputs, temperature: float) -> list[Prediction]:
    """The images whose labels are most likely wrong, by confident learning (Northcutt et al. 2021, arXiv 1911.00068).

    A class is confident of an image if its probability is at least the mean of those that it has for its own images. A label
    is suspicious if another class is confident of the image, and likelier. The largest difference of the two probabilities
    comes first. It says something only of images that the model was not trained on.
    """
    probabilities = softmax(outputs.logits / temperature)
    images, classes = probabilities.shape
    threshold = np.ones(classes)
    for label in np.unique(outputs.labels):
        threshold[label] = probabilities[outputs.labels == label, label].mean()
    given = probabilities[np.arange(images), outputs.labels]
    others = np.where(probabilities >= threshold, probabilities, 0.0)
    others[np.arange(images), outputs.labels] = 0.0
    best = others.argmax(axis=1)
    margin = others[np.arange(images), best] - given
    rows = np.flatnonzero(margin > 0)
    return _describe(outputs, probabilities, best, rows[np.argsort(-margin[rows], kind="stable")])


def _describe(
    outputs: Outputs, probabilities: NDArray[np.float64], predicted: NDArray[np.int64], rows: NDArray[np.int64]
) -> list[Prediction]:
    return [
        Prediction(
            place=int(outputs.indices[row]),
            true=int(outputs.labels[row]),
            predicted=int(predicted[row]),
            confidence=float(probabilities[row, predicted[row]]),
            true_probability=float(probabilities[row, outputs.labels[row]]),
        )
        for row in rows
    ]
