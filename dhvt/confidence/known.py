"""Known or not: how strange an image is to a model, and which share of known images is as strange.

The novelty of an image is the distance from its logits to the third nearest of those of the reference images, all less their
mean, over the length of its own. Logits of images that belong to no class are short or lie between the classes' clusters, far
from all others. By AUROC it is the best of the scores that need logits only, and 1 to 2 points below scores of the features
before the head; benchmarks/known.py measures it. Nearest neighbours: Sun et al. 2022, arXiv 2204.06507.

The p-value is the share of reference images that are as strange or stranger, the new image among them. Of images like the
reference, at most a share of 0.01 has a p-value of at most 0.01, whatever the model is worth: a conformal p-value. A reference
image is no neighbour of its own, and neither is the new image one of the reference's, so that the reference appears stranger,
if anything.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 3
"""Which of the nearest neighbours counts; the nearest itself may be another shot of the same thing."""

MOST_INDEXED = 2_000
"""Images among which neighbours are looked for."""

MOST_NUMBERS = 1_000_000
"""Logits that the index holds at most, 4 MB."""

_MANY = 1e18  # more images than there are, where 1 / reject is infinite
_ROUNDING = 1e-9  # 1 / 0.01 - 1 is meant to be 99
_CHUNK = 1_000


class NoveltyIndex:
    """The logits of images that are known, among which neighbours are looked for.

    Args:
        logits: ``(M, classes)``, M > 1; as the engine gave them.
    """

    def __init__(self, logits: NDArray[np.floating]) -> None:
        self._known, self._squares = _centre(logits)

    def __len__(self) -> int:
        return len(self._known)

    def score(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """The novelty of images, ``(B,)``, higher for stranger ones.

        Args:
            logits: ``(B, classes)``, in the precision of the index.
        """
        nearest = min(NEIGHBOURS, len(self._known)) - 1
        return self._distances(logits, nearest)

    def score_many(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """As :meth:`score`, of any number of images, in the memory of a few."""
        chunks = [self.score(logits[start : start + _CHUNK]) for start in range(0, len(logits), _CHUNK)]
        return np.concatenate(chunks) if chunks else np.zeros(0)

    def score_own(self, rows: NDArray[np.integer]) -> NDArray[np.float64]:
        """The novelty of images of the index, ``(B,)``, to the others.

        Args:
            rows: ``(B,)``, theirs in the index.
        """
        nearest = min(NEIGHBOURS, len(self._known) - 1) - 1
        return self._distances(self._known[rows], nearest, rows)

    def _distances(
        self, logits: NDArray[np.floating], nearest: int, without: NDArray[np.integer] | None = None
    ) -> NDArray[np.float64]:
        centred, squares = _centre(logits)
        distances = squares[:, None] + self._squares - 2 * centred @ self._known.T  # (B, M), squared
        if without is not None:
            distances[np.arange(len(distances)), without] = np.inf
        found = np.partition(distances, nearest, axis=1)[:, nearest]
        lengths = np.maximum(squares, 1e-12)  # of an image all of whose logits are equal
        novelty: NDArray[np.float64] = np.sqrt(np.maximum(found, 0).astype(np.float64) / lengths)
        return novelty


def _centre(logits: NDArray[np.floating]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits less their mean, which softmax does not see, and their squared lengths."""
    centred = (logits - logits.mean(axis=1, keepdims=True)).astype(np.float32)
    return centred, np.square(centred).sum(axis=1)


def measure_novelty(
    logits: NDArray[np.float32], seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float32]] | tuple[None, None]:
    """The novelty of the N reference images, ``(N,)``, and the logits to make a :class:`NoveltyIndex` of, ``(M, classes)``.

    The index has all of them, or a random choice up to :data:`MOST_INDEXED` images and :data:`MOST_NUMBERS` numbers. Both are
    None for a single image, which has no neighbour.

    Args:
        logits: ``(N, classes)``.
    """
    images, classes = logits.shape
    most = min(images, MOST_INDEXED, max(MOST_NUMBERS // classes, 2))
    if most < 2:
        return None, None
    rows = np.sort(np.random.default_rng(seed).permutation(images)[:most])
    index = NoveltyIndex(logits[rows])
    novelty = np.empty(images)
    places = np.full(images, -1)
    places[rows] = np.arange(most)
    for start in range(0, images, _CHUNK):
        chunk = np.arange(start, min(start + _CHUNK, images))
        own = places[chunk] >= 0
        novelty[chunk[own]] = index.score_own(places[chunk[own]])
        novelty[chunk[~own]] = index.score(logits[chunk[~own]])
    return novelty, logits[rows].astype(np.float32)


def p_values(reference: NDArray[np.float64], novelty: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(1 + how many of N are as strange or stranger) / (N + 1)``.

    Args:
        reference: ``(N,)`` ascending, the novelty of the reference images.
        novelty: ``(B,)``, of new images.
    """
    stranger = len(reference) - np.searchsorted(reference, novelty, side="left")
    values: NDArray[np.float64] = (1 + stranger) / (len(reference) + 1)
    return values


def least_images(reject: float) -> int:
    """The fewest reference images that a rejected share needs: 99 for 0.01, of which the p-value is at least 1 in 100."""
    return max(int(np.ceil(min(1 / reject, _MANY) - 1 - _ROUNDING)), 1)
