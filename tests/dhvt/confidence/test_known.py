"""Novelty and its p-value: what they mean, that the promise holds, and what the index keeps."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dhvt.confidence import known
from dhvt.confidence.known import NoveltyIndex, least_images, measure_novelty, p_values


def _clusters(images: int, seed: int, classes: int = 10) -> NDArray[np.float32]:
    """Logits as a trained model gives them: one class high, the others low."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 0.5, (images, classes))
    logits[np.arange(images), rng.integers(classes, size=images)] += 8
    return logits.astype(np.float32)


def test_novelty_is_the_distance_to_the_third_nearest_over_the_length() -> None:
    rng = np.random.default_rng(1)
    reference, images = rng.normal(size=(50, 4)).astype(np.float32), rng.normal(size=(7, 4)).astype(np.float32)
    got = NoveltyIndex(reference).score(images)
    centred, others = images - images.mean(1, keepdims=True), reference - reference.mean(1, keepdims=True)
    distances = np.sort(np.linalg.norm(centred[:, None] - others, axis=2), axis=1)[:, 2]
    np.testing.assert_allclose(got, distances / np.linalg.norm(centred, axis=1), rtol=1e-4)
    np.testing.assert_allclose(NoveltyIndex(reference + 3).score(images - 5), got, rtol=1e-4)  # softmax sees no shift either


def test_a_reference_image_is_not_its_own_neighbour() -> None:
    logits = _clusters(40, 2)
    novelty, index = measure_novelty(logits)
    assert novelty is not None
    assert index is not None
    np.testing.assert_array_equal(index, logits)
    for row in (0, 17, 39):
        others = NoveltyIndex(np.delete(logits, row, axis=0))
        np.testing.assert_allclose(novelty[row], others.score(logits[row : row + 1])[0], rtol=1e-4)


def test_at_most_the_promised_share_of_known_images_is_rejected() -> None:
    shares = []
    for seed in range(60):
        logits = _clusters(400, 100 + seed)
        novelty, index = measure_novelty(logits[:200])
        assert novelty is not None
        assert index is not None
        values = p_values(np.sort(novelty), NoveltyIndex(index).score(logits[200:]))
        shares.append([np.mean(values <= reject) for reject in (0.01, 0.05, 0.2)])
    means, errors = np.mean(shares, axis=0), np.std(shares, axis=0) / np.sqrt(len(shares))
    assert (means <= np.array([0.01, 0.05, 0.2]) + 3 * errors).all()
    assert (means >= np.array([0.01, 0.05, 0.2]) / 2).all()  # and the promise is not kept by rejecting nothing


def test_images_of_no_class_are_rejected() -> None:
    novelty, index = measure_novelty(_clusters(500, 3))
    assert novelty is not None
    assert index is not None
    two_classes = np.zeros((2, 10), dtype=np.float32)
    two_classes[:, :2] = 4
    values = p_values(np.sort(novelty), NoveltyIndex(index).score(np.stack([*two_classes, np.zeros(10, np.float32)])))
    np.testing.assert_allclose(values, 1 / 501)


def test_p_values_count_the_image_itself_and_equals() -> None:
    values = p_values(np.array([1.0, 2.0, 2.0, 3.0]), np.array([0.0, 2.0, 3.5]))
    np.testing.assert_allclose(values, [5 / 5, 4 / 5, 1 / 5])


@pytest.mark.parametrize(("reject", "images"), [(0.01, 99), (0.05, 19), (0.5, 1), (0.9, 1), (0.001, 999), (0.03, 33)])
def test_fewest_images_that_can_reject(reject: float, images: int) -> None:
    assert least_images(reject) == images
    assert 1 / (images + 1) <= reject
    assert images == 1 or 1 / images > reject


def test_the_index_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = _clusters(60, 4)
    monkeypatch.setattr(known, "MOST_INDEXED", 20)
    novelty, index = measure_novelty(logits)
    assert novelty is not None
    assert index is not None
    assert index.shape == (20, 10)
    rows = [int(np.flatnonzero((logits == row).all(axis=1))[0]) for row in index]
    outside = np.setdiff1d(np.arange(60), rows)
    np.testing.assert_allclose(novelty[outside], NoveltyIndex(index).score(logits[outside]), rtol=1e-4)
    monkeypatch.setattr(known, "MOST_NUMBERS", 50)
    assert measure_novelty(logits)[1].shape == (5, 10)  # type: ignore[union-attr]


def test_very_few_images() -> None:
    assert measure_novelty(_clusters(1, 5)) == (None, None)
    novelty, index = measure_novelty(_clusters(2, 5))
    assert novelty is not None
    assert index is not None
    assert np.isfinite(novelty).all()
    assert np.isfinite(NoveltyIndex(index).score(np.zeros((1, 10), np.float32))).all()
