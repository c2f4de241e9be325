"""Prediction sets: the promise, by simulation, and the same sets as written out by hand."""

import math

import numpy as np
import pytest
from mapie.classification import SplitConformalClassifier
from sklearn.base import BaseEstimator, ClassifierMixin

from dhvt.confidence.sets import choose_labels, find_class_thresholds, find_threshold, least_images, nonconformity


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
    return np.array([len(choose_labels(-np.sort(-row), threshold)) for row in probabilities])


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


class Given(ClassifierMixin, BaseEstimator):
    """A classifier for MAPIE whose images are their own probabilities."""

    classes_ = np.arange(6)

    def fit(self, x, y=None):
        return self

    def __sklearn_is_fitted__(self):
        return True

    def predict(self, x):
        return x.argmax(1)

    def predict_proba(self, x):
        return x


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_where_sets_need_more_than_one_label_they_are_those_of_mapie(coverage):
    """The model is right for half of the images, so LAC has no empty set, and the most likely label makes no difference."""
    rng = np.random.default_rng(1)
    (probabilities, labels), (new, _) = draw_images(rng, 200), draw_images(rng, 100)
    mapie = SplitConformalClassifier(Given(), confidence_level=coverage, conformity_score="lac", prefit=True)
    _, expected = mapie.conformalize(probabilities, labels).predict_set(new)
    threshold = find_threshold(true_scores(probabilities, labels), coverage)
    assert (expected[..., 0] == (nonconformity(new) <= threshold)).all()
    assert set_sizes(new, threshold).tolist() == expected[..., 0].sum(axis=1).tolist()


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


def test_each_class_is_covered_by_a_threshold_of_its_own():
    """Of two classes one is hard: one threshold for both covers it too rarely."""
    rng = np.random.default_rng(0)

    def draw_hard(images):
        labels = rng.integers(0, 2, images)
        logits = np.zeros((images, 2))
        logits[:, 1] = np.where(labels == 1, rng.normal(-1, 1, images), rng.normal(-4, 1, images))
        return nonconformity(softmax(logits)), labels

    shares = []
    for _ in range(100):
        scores, labels = draw_hard(200)
        own = scores[np.arange(200), labels]
        by_class, of_all = find_class_thresholds(own, labels, 2, 0.9), find_threshold(np.sort(own), 0.9)
        scores, labels = draw_hard(500)
        own = scores[np.arange(500), labels]
        shares.append([(own <= limit)[labels == 1].mean() for limit in (by_class[labels], of_all)])
    each, together = np.mean(shares, axis=0)
    assert each >= 0.895
    assert together < 0.85


def test_classes_with_too_few_images_share_a_threshold():
    scores, labels = np.linspace(0, 1, 40), np.array([0] * 20 + [1] * 10 + [2] * 10)
    thresholds = find_class_thresholds(scores, labels, 4, 0.95)
    assert thresholds.tolist() == [scores[19], *[find_threshold(scores[20:], 0.95)] * 3]
    assert find_class_thresholds(scores[:35], labels[:35], 3, 0.95).tolist() == [scores[19], np.inf, np.inf]


def test_an_easy_class_does_not_cost_rare_hard_ones_their_coverage():
    """With the threshold of all images, rare classes would be covered as if the easy one still made up for them."""
    rng = np.random.default_rng(0)

    def draw_images(images):
        labels = np.where(rng.random(images) < 0.82, 0, rng.integers(1, 11, images))
        return labels, np.where(labels == 0, rng.beta(1, 8, images), rng.beta(3, 3, images))

    shares = []
    for _ in range(100):
        labels, scores = draw_images(600)
        thresholds = find_class_thresholds(scores, labels, 11, 0.95)
        labels, scores = draw_images(2000)
        covered = scores <= thresholds[labels]
        shares.append([covered.mean(), covered[labels > 0].mean()])
    assert (np.mean(shares, axis=0) >= 0.945).all()


def test_labels_are_chosen_each_by_its_own_threshold():
    assert choose_labels(np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.6, 0.8])).tolist() == [0, 2]
