"""Measured coverage, and what a number of images allows."""

from itertools import pairwise

import numpy as np
import pytest

from dhvt.confidence.coverage import covered_quantiles, measure_coverage
from dhvt.confidence.sets import find_rank
from tests.dhvt.confidence.test_sets import draw_images, true_scores


def test_the_quantiles_are_those_of_a_simulation():
    rng = np.random.default_rng(0)
    for reference, images, coverage in ((50, 30, 0.9), (200, 400, 0.95), (19, 20, 0.95)):
        rank = find_rank(reference, coverage)
        thresholds = np.sort(rng.random((4000, reference)), axis=1)[:, rank - 1]
        shares = rng.binomial(images, thresholds) / images
        expected = np.quantile(shares, (0.025, 0.5, 0.975))
        assert covered_quantiles(reference, images, coverage, (0.025, 0.5, 0.975)) == pytest.approx(expected, abs=1.5 / images)


def test_a_promise_that_holds_and_one_that_is_broken():
    rng = np.random.default_rng(2)
    reference, (probabilities, labels) = draw_images(rng, 300), draw_images(rng, 500)
    found = measure_coverage(true_scores(*reference), probabilities, labels)
    assert [entry.coverage for entry in found] == [0.8, 0.9, 0.95, 0.99]
    assert all(entry.fault is None and entry.least < entry.low < entry.coverage < entry.high for entry in found)
    assert all(1 <= small.mean_size <= large.mean_size for small, large in pairwise(found))
    others = measure_coverage(true_scores(*reference), probabilities, rng.integers(0, 6, 500))
    assert all(entry.fault for entry in others[:3])
    assert "coverage 0.9: " in found[1].describe()


def test_only_coverages_that_the_reference_allows_are_measured():
    probabilities, labels = draw_images(np.random.default_rng(3), 20)
    assert [entry.coverage for entry in measure_coverage(np.linspace(0, 1, 30), probabilities, labels)] == [0.8, 0.9, 0.95]
    assert measure_coverage(np.linspace(0, 1, 30), probabilities[:0], labels[:0]) == []
