"""Groups of images that belong together, such as those of one person, plant or module, and splits that keep them whole."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from dhvt.data.sources import ImageSource
from dhvt.errors import DataError

_log = logging.getLogger(__name__)

Rows = NDArray[np.int64]


def require_groups_apart(training: ImageSource, other: ImageSource, by: str) -> None:
    """Refuses images to measure on whose groups were trained on.

    Raises:
        DataError: a group is on both sides, or an image has none.
    """
    shared = shared_groups(training, other, by)
    if shared:
        raise DataError(
            f"{len(shared)} groups of --group-by {by!r} are in both {training.origin} and {other.origin}: "
            f"{', '.join(shared[:5])}; what is measured on them says nothing of new groups: give others, or omit --group-by"
        )


def shared_groups(one: ImageSource, other: ImageSource, by: str) -> list[str]:
    """The groups that have images in both, in alphabetical order: what leaks from one split into another.

    Args:
        by: as for :meth:`ImageSource.groups`.

    Raises:
        DataError: an image has no group.
        ConfigError: ``by`` is no regular expression.
    """
    return sorted({*one.groups(by)} & {*other.groups(by)})


def hold_out_groups(source: ImageSource, fraction: float, seed: int, by: str) -> Rows:
    """The indices, ascending, of whole groups that have about ``fraction`` of each class.

    Groups are taken in random order, each if that brings the classes' shares nearer to ``fraction``; then, for a class that
    got none, the group that takes them least away from it. A class keeps images in the rest, so that one whose images are
    all of one group is not held out, with a warning.

    Args:
        by: as for :meth:`ImageSource.groups`.
    """
    groups = source.groups(by)
    number_of = {name: number for number, name in enumerate(sorted(set(groups)))}
    numbers = np.array([number_of[name] for name in groups], dtype=np.int64)
    members = np.split(np.argsort(numbers, kind="stable"), np.cumsum(np.bincount(numbers))[:-1])
    shares = _Shares(source.labels, len(source.classes), fraction)
    order = [int(number) for number in np.random.default_rng(seed).permutation(len(members))]
    taken = {number for number in order if shares.take_if_nearer(members[number])}
    for label in np.flatnonzero((shares.held == 0) & (shares.totals > 1)):
        able = [number for number in order if number not in taken and shares.can_take(members[number], int(label))]
        if not able:
            _log.warning("no image of %s is held out, because all are of one group", source.classes[label])
            continue
        best = min(able, key=lambda number: shares.change(members[number]))
        shares.take(members[best])
        taken.add(best)
    return np.sort(np.concatenate([members[number] for number in taken])) if taken else np.empty(0, dtype=np.int64)


class _Shares:
    """How many images of each class are held out, ``held`` of ``totals``."""

    def __init__(self, labels: Rows, classes: int, fraction: float) -> None:
        self._labels, self._fraction = labels, fraction
        self.totals = np.bincount(labels, minlength=classes)
        self.held = np.zeros(classes, dtype=np.int64)

    def take(self, rows: Rows) -> None:
        np.add.at(self.held, self._labels[rows], 1)

    def take_if_nearer(self, rows: Rows) -> bool:
        is_nearer = self.can_take(rows) and self.change(rows) < 0
        if is_nearer:
            self.take(rows)
        return is_nearer

    def can_take(self, rows: Rows, label: int | None = None) -> bool:
        """Whether every class of these images keeps others, and one of them is of ``label``."""
        classes, counts = np.unique(self._labels[rows], return_counts=True)
        return bool((self.held[classes] + counts < self.totals[classes]).all()) and (label is None or label in classes)

    def change(self, rows: Rows) -> float:
        """What taking these images adds to the squared distance of the classes' shares from the fraction."""
        classes, counts = np.unique(self._labels[rows], return_counts=True)
        before = self.held[classes] / self.totals[classes] - self._fraction
        after = before + counts / self.totals[classes]
        return float((after**2 - before**2).sum())
