"""Prediction sets: the promise, by simulation, and the same sets as written out by hand."""

import math

import numpy as np
import pytest

from dhvt.confidence.sets import count_labels, find_threshold, least_images, nonconformity


def draw_images(rng, images, classes=6):
    """Probabilities of a model that is overconfident, and the right labels."""
    logits = rng.normal(size=(images, classes))
    labels = np.array([rng.choice(classes, p=row) for row in softmax(1.5 * logits)])
    return softmax(4 * logits), labels


def softmax(logits):
    exponents = np.exp(logits - logits.max(1, keepdims=True))
    return exponents / exponents.sum(1, keepdims=True)


def true_scores(probabilities, labels):
    return np.sort(nonconformity(probabilities)[np.arange(len(labels)), labels])


def set_sizes(probabilities, threshold):
    return np.array([count_labels(-np.sort(-row), threshold) for row in probabilities])


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95, 0.99])
def test_the_right_label_is_in_the_set_as_often_as_promised(coverage):
    rng = np.random.default_rng(0)
    images, tested, found = 150, 300, []
    for _ in range(60):
        reference, new = draw_images(rng, images), draw_images(rng, tested)
        threshold = find_threshold(true_scores(*reference), coverage)
        found.append(np.mean(nonconformity(new[0])[np.arange(tested), new[1]] <= threshold))
    scatter = math.sqrt(coverage * (1 - coverage) * (1 / images + 1 / tested) / len(found))
    assert coverage - 4 * scatter <= np.mean(found) <= coverage + 1 / images + 4 * scatter


def test_a_set_is_what_the_definition_says():
    rng = np.random.default_rng(1)
    (probabilities, labels), (new, _) = draw_images(rng, 40), draw_images(rng, 50)
    scores = sorted(0 if row[label] == row.max() else 1 - row[label] for row, label in zip(probabilities, labels, strict=True))
    for coverage in (0.5, 0.8, 0.9, 0.95):
        threshold = scores[math.ceil(41 * coverage) - 1]
        assert find_threshold(true_scores(probabilities, labels), coverage) == threshold
        expected = [max(sum(1 - p <= threshold for p in row), 1) for row in new]
        assert set_sizes(new, threshold).tolist() == expected


@pytest.mark.parametrize(("coverage", "images"), [(0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99), (2 / 3, 2)])
def test_too_few_images_leave_every_label_in(coverage, images):
    assert least_images(coverage) == images
    scores = np.linspace(0.1, 0.9, images)
    assert find_threshold(scores, coverage) == 0.9
    assert find_threshold(scores[:-1], coverage) == math.inf
    assert set_sizes(np.full((1, 3), 1 / 3), math.inf) == [3]


def test_the_most_likely_label_is_in_every_set():
    """A model that is always right needs no second label, and an empty set would tell nothing."""
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6]] * 50)
    threshold = find_threshold(true_scores(probabilities, np.array([0, 1] * 50)), 0.95)
    assert threshold == 0
    assert set_sizes(probabilities, threshold).tolist() == [1] * 100
