"""A test, valid at any time, of whether the images that are served are of the reference's kind.

Each image gives two conformal p-values: one of its predicted class, one of its top score among the images of that class. An
image is ranked among the reference *and the stream so far*, so that all p-values are uniform and independent as long as both
are exchangeable, however small the reference is (Vovk, Gammerman and Shafer 2022, "Algorithmic Learning in a Random World",
chapter 8); a reference alone would be told from a long stream by its own sampling error. Bets against uniformity give a test
martingale M, which begins at 1; by Ville's inequality, P(M ever reaches 1/δ) ≤ δ. M is the mean of several bets, each spread
over all times at which it may begin, so that a long time without drift delays a later detection little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 32
"""Images that are tested together: the bets on them depend on earlier blocks only."""

WINDOW = 1000
"""The last answers whose classes are compared with the reference's."""

SCORE_BINS = 64
_LOGIT_RANGE = (-6.0, 12.0)  # of top scores; those beyond share a bin with the last
_P_BINS = 16

State = Mapping[str, NDArray[Any]]
"""A test in the middle of its stream, as arrays that ``numpy.savez`` writes."""

_STATE = ("_counts", "_histograms", "_log_capital", "_log_growth", "_began", "_waiting", "_recent", "_alarm")


@dataclass(frozen=True)
class Bet:
    """A bet that p-values go on as they were of late: their histogram, in which older ones count less.

    Args:
        memory: images after which a p-value counts 1/e.
        caution: images' worth of uniform p-values that the histogram always has.
    """

    memory: float
    caution: float


BETS = (Bet(100, 100), Bet(1000, 500), Bet(8000, 2000))
"""Each is made three times: on the p-values of classes, on those of scores, and on both together."""

BASES = ("classes", "scores", "classes and scores")


@dataclass(frozen=True)
class Alarm:
    """When M first reached the level, and when that began which the most successful bet is about.

    Args:
        of: one of :data:`BASES`, what that bet is on.
        images, time: tested images and the clock's seconds at the alarm.
        began_images, began_time: the same at the estimated beginning.
    """

    of: str
    images: int
    time: float
    began_images: int
    began_time: float


class DriftTest:
    """The test of one stream of answers.

    Args:
        predicted: ``(N,)`` the reference's most likely classes.
        top_score: ``(N,)`` their calibrated probabilities.
        classes: how many there are.
        alarm_at: M at which there is an alarm, 1/δ.
        seed: of the draws that order equal answers.
        bets: see :data:`BETS`.
    """

    def __init__(
        self,
        predicted: NDArray[np.integer],
        top_score: NDArray[np.floating],
        classes: int,
        *,
        alarm_at: float = 100.0,
        seed: int = 0,
        bets: tuple[Bet, ...] = BETS,
    ) -> None:
        self._seed, self._log_alarm_at = seed, np.log(alarm_at)
        self.reference_counts = np.bincount(predicted, minlength=classes)
        self._counts = np.zeros((classes, SCORE_BINS), np.int64)
        np.add.at(self._counts, (predicted, _score_bins(top_score)), 1)
        self._forget = np.exp(-BLOCK / np.array([bet.memory for bet in bets]))[:, None]
        self._uniform = np.array([bet.caution / _P_BINS for bet in bets])[:, None]
        self._histograms = np.zeros((2, len(bets), _P_BINS))  # of the p-values of classes and of scores
        shape = (len(BASES), len(bets))
        self._log_capital = np.full(shape, -np.inf)  # of what has begun; the reserve has not
        self._log_growth = np.zeros(shape)  # since each bet last had gained nothing
        self._began = np.zeros((*shape, 2))  # tested images and time then
        self._waiting = np.empty((0, 2))
        self._recent = np.empty(0, np.int64)
        self._alarm = np.empty(0)  # the index of its basis, and the numbers of an Alarm
        self._set_sums()

    def _set_sums(self) -> None:
        self._by_class = self._counts.sum(axis=1)
        self._total = int(self._by_class.sum())

    @property
    def images(self) -> int:
        """Images that were tested; up to ``BLOCK - 1`` further ones wait."""
        return self._total - int(self.reference_counts.sum())

    @property
    def log_evidence(self) -> float:
        """The natural logarithm of M."""
        begun = np.logaddexp.reduce(self._log_capital, axis=None) - np.log(self._log_capital.size)
        return float(np.logaddexp(np.log(_reserve(self.images // BLOCK)), begun))

    @property
    def alarm(self) -> Alarm | None:
        """The first alarm; it stays."""
        if not len(self._alarm):
            return None
        basis, images, time, began_images, began_time = self._alarm.tolist()
        return Alarm(BASES[int(basis)], int(images), time, int(began_images), began_time)

    @property
    def recent_counts(self) -> NDArray[np.int64]:
        """Predicted classes among the last :data:`WINDOW` tested answers, ``(classes,)``."""
        return np.bincount(self._recent, minlength=len(self.reference_counts))

    def state(self) -> State:
        """What :meth:`restore` takes."""
        return {name[1:]: getattr(self, name).copy() for name in _STATE}

    def restore(self, state: State) -> None:
        """Goes on where the test of the same reference, classes and bets was whose state this is.

        Raises:
            ValueError: it is of another.
        """
        for name in _STATE:
            before, value = getattr(self, name), state.get(name[1:])
            if value is None or value.ndim != before.ndim or (name in _STATE[:5] and value.shape != before.shape):
                raise ValueError(f"{name[1:]} is missing or of another shape")
            setattr(self, name, value.astype(before.dtype))
        self._set_sums()

    def update(self, predicted: NDArray[np.integer], top_score: NDArray[np.floating], time: float = 0.0) -> int:
        """Takes answers in their order, ``(B,)`` each, and tests each block that becomes full.

        Args:
            time: the clock's, for :attr:`alarm`.

        Returns:
            How many images were tested.
        """
        self._waiting = np.concatenate([self._waiting, np.column_stack([predicted, top_score])])
        full = len(self._waiting) // BLOCK * BLOCK
        for start in range(0, full, BLOCK):
            block = self._waiting[start : start + BLOCK]
            self._test(block[:, 0].astype(np.int64), _score_bins(block[:, 1]), time)
        self._waiting = self._waiting[full:]
        return full

    def _test(self, classes: NDArray[np.int64], bins: NDArray[np.int64], time: float) -> None:
        """Bets on one block, and learns from it."""
        before = self.images
        p_values = self._rank(classes, bins)
        drawn = np.minimum((p_values * _P_BINS).astype(np.int64), _P_BINS - 1)
        counts = np.stack([np.bincount(row, minlength=_P_BINS) for row in drawn])[:, None]  # (2, 1, bins)
        expected = self._histograms + self._uniform
        log_density = np.log(expected * (_P_BINS / expected.sum(axis=-1, keepdims=True)))
        growth = (log_density * counts).sum(axis=-1)
        growth = np.concatenate([growth, growth.sum(axis=0, keepdims=True)])  # (bases, bets)
        begins = np.log(_reserve(before // BLOCK) - _reserve(before // BLOCK + 1))
        self._log_capital = np.logaddexp(self._log_capital, begins) + growth
        fresh = self._log_growth <= 0
        self._began[fresh] = before, time
        self._log_growth = np.where(fresh, 0, self._log_growth) + growth
        self._histograms = self._histograms * self._forget + counts
        self._recent = np.concatenate([self._recent, classes])[-WINDOW:]
        if not len(self._alarm) and self.log_evidence >= self._log_alarm_at:
            best = np.unravel_index(np.argmax(self._log_capital), self._log_capital.shape)
            self._alarm = np.array([best[0], self.images, time, *self._began[best]])

    def _rank(self, classes: NDArray[np.int64], bins: NDArray[np.int64]) -> NDArray[np.float64]:
        """The p-values ``(2, BLOCK)`` of classes and scores; later blocks are ranked among this one too."""
        draws = np.random.default_rng([self._seed, self._total]).random((2, BLOCK))
        earlier = np.tri(BLOCK, k=-1, dtype=bool)
        same = earlier & (classes[:, None] == classes)
        above = (self._total - self._by_class.cumsum())[classes] + (earlier & (classes > classes[:, None])).sum(axis=1)
        equal = self._by_class[classes] + same.sum(axis=1)
        p_classes = (above + draws[0] * (equal + 1)) / (self._total + np.arange(BLOCK) + 1)
        rows = self._counts[classes]
        higher = np.where(np.arange(SCORE_BINS) > bins[:, None], rows, 0).sum(axis=1)
        higher += (same & (bins > bins[:, None])).sum(axis=1)
        tied = rows[np.arange(BLOCK), bins] + (same & (bins == bins[:, None])).sum(axis=1)
        p_scores = (higher + draws[1] * (tied + 1)) / (equal + 1)
        np.add.at(self._counts, (classes, bins), 1)
        np.add.at(self._by_class, classes, 1)
        self._total += BLOCK
        return np.stack([p_classes, p_scores])


def _reserve(blocks: int) -> float:
    """The share of M that has not begun to bet after so many blocks; it falls so slowly that there is some at any time."""
    return float(1 / np.log2(blocks + 2))


def _score_bins(scores: NDArray[np.floating]) -> NDArray[np.int64]:
    """The bin of each probability, on a fixed scale of log-odds: one that is fitted to the reference would favour it."""
    clipped = np.clip(np.asarray(scores, np.float64), 1e-9, 1 - 1e-9)
    low, high = _LOGIT_RANGE
    position = (np.log(clipped / (1 - clipped)) - low) / (high - low) * SCORE_BINS
    return np.clip(position.astype(np.int64), 0, SCORE_BINS - 1)
