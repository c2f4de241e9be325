"""The measured share of known images that are called unknown, and what a number of images allows."""

import numpy as np
import pytest

from dhvt.confidence.known import NoveltyIndex, measure_novelty, p_values
from dhvt.confidence.rejection import measure_detection, measure_rejection


def draw_logits(rng, images):
    """Clusters of four classes."""
    return (6 * np.eye(4)[rng.integers(0, 4, images)] + rng.normal(size=(images, 4))).astype(np.float32)


def test_a_promise_that_holds_and_one_that_is_broken():
    rng = np.random.default_rng(0)
    novelty, index = measure_novelty(draw_logits(rng, 400))
    known = measure_rejection(novelty, index, draw_logits(rng, 600))
    assert [entry.reject for entry in known] == [0.01, 0.05]
    assert all(entry.fault is None and entry.low <= entry.reject <= entry.high < entry.most for entry in known)
    others = measure_rejection(novelty, index, rng.normal(size=(600, 4)).astype(np.float32))
    assert all(entry.measured > 0.5 for entry in others)
    assert "at reject 0.01, " in others[0].fault
    assert "(at most " in others[0].fault
    assert f"reject 0.01: {known[0].measured:.1%} of 600 images are called unknown" in known[0].describe()


def test_the_bound_is_passed_by_one_in_a_thousand_at_most():
    rng = np.random.default_rng(1)
    shares = []
    for _ in range(300):
        novelty, index = measure_novelty(draw_logits(rng, 120))
        shares += measure_rejection(novelty, index, draw_logits(rng, 100), (0.05,))
    assert sum(entry.fault is not None for entry in shares) <= 3
    assert np.mean([entry.measured for entry in shares]) == pytest.approx(0.05, abs=0.01)
    assert np.mean([entry.low <= entry.measured <= entry.high for entry in shares]) > 0.93


def test_only_shares_that_the_reference_allows_are_measured():
    rng = np.random.default_rng(2)
    novelty, index = measure_novelty(draw_logits(rng, 60))
    assert [entry.reject for entry in measure_rejection(novelty, index, draw_logits(rng, 20))] == [0.05]
    assert measure_rejection(novelty, index, draw_logits(rng, 0)) == []


def test_detection_counts_pairs_and_what_is_rejected():
    rng = np.random.default_rng(2)
    novelty, index = measure_novelty(draw_logits(rng, 200))
    known, unknown = draw_logits(rng, 60), rng.normal(size=(40, 4)).astype(np.float32)
    found = measure_detection(novelty, index, known, unknown)
    ours, others = (NoveltyIndex(index).score(logits) for logits in (known, unknown))
    assert found.auroc == pytest.approx((others[:, None] > ours).mean())
    p = p_values(np.sort(novelty), others)
    assert found.found == {reject: (p <= reject).mean() for reject in (0.01, 0.05)}
    few, index = measure_novelty(draw_logits(rng, 50))
    assert list(measure_detection(few, index, known, unknown).found) == [0.05]
