"""Groups of images that are the same, byte by byte or to the eye.

Near duplicates are found without comparing every image with every other. Two hashes that differ in at most six of their 64
bits agree in at least two of their eight bytes. So for each of the 28 pairs of bytes the hashes are sorted by these, and only
those with the same two bytes are compared: of half a million hashes about 50 million pairs, in seconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dhvt.data.inspection.facts import ImageFacts
from dhvt.data.inspection.perceptual import Appearance

MOST_BITS = 6
"""Bits in which the hashes of near duplicates differ. Of 300 photographs saved again with JPEG's quality 50, scaled to half or
twice the size or brightened, 99 % differ in 8 or fewer, 95 % in 6."""

MOST_COLOR, MOST_COLOR_SHARE = 6.0, 0.2
"""Mean difference of near duplicates' 8×8 colours, of 255, after their means are subtracted; and as a share of the mean
deviation of these colours, for images of something small on an even ground."""

MOST_SHIFT = 25.0
"""Difference of the mean of a colour channel, of 255."""

LEAST_CORRELATION = 0.99
"""Of the 16×16 grey values of near duplicates in data whose images are all alike, such as plankton: one shape on an even
ground, so that hash and colours are often the same of different things. Of 8,000 such pairs 99 % have less; of 800 images of
plankton saved again with JPEG's quality 50, 96 % have more. Photographs of CIFAR-100 that were cut out or taken twice have less
too, which is why it is not asked of all data."""

ALIKE_IMAGES, ALIKE_SHARE, ALIKE_FACTOR = 100, 0.01, 4
"""Images of a data set are all alike where more than so many, and more than this share of them, have a near duplicate, and so
many times as many as have one with :data:`LEAST_CORRELATION`."""

_WINDOW = 300
"""Hashes with the same two bytes that each is compared with, the nearest in order. Only data with hundreds of images that
look alike have more, and these are joined through their neighbours."""

_BYTES = 8


def group_exact(facts: Sequence[ImageFacts]) -> list[list[int]]:
    """Indices of readable images with the same bytes, in groups of two or more, in order."""
    found: dict[int, list[int]] = defaultdict(list)
    for index, entry in enumerate(facts):
        if entry.error is None:
            found[entry.content].append(index)
    return [group for group in found.values() if len(group) > 1]


class NearGroups(NamedTuple):
    """Args:
    groups: indices of images that look the same and are not all the same bytes, in order.
    are_alike: the images of the data set look so alike that only nearly equal ones are in the groups.
    """

    groups: list[list[int]]
    are_alike: bool


def group_near(facts: Sequence[ImageFacts]) -> NearGroups:
    """Groups of images that look the same.

    Blank images are left out: all of them look the same. A group holds what is joined by a chain of near duplicates, such as
    the frames of a film.
    """
    copies: dict[int, list[int]] = defaultdict(list)
    for index, entry in enumerate(facts):
        if entry.error is None and not entry.appearance.is_blank:
            copies[entry.content].append(index)
    appearances = [facts[indices[0]].appearance for indices in copies.values()]
    labels, are_alike = _label_near(appearances), False
    if _count_joined(labels) > max(ALIKE_IMAGES, ALIKE_SHARE * len(labels)):
        strict = _label_near(appearances, LEAST_CORRELATION)
        are_alike = _count_joined(strict) * ALIKE_FACTOR < _count_joined(labels)
        labels = strict if are_alike else labels
    groups: dict[int, list[int]] = defaultdict(list)
    for label, indices in zip(labels.tolist(), copies.values(), strict=True):
        groups[label].append(indices[0])
        groups[label] += indices[1:]
    contents = {label: {facts[index].content for index in group} for label, group in groups.items() if len(group) > 1}
    return NearGroups([sorted(groups[label]) for label, different in contents.items() if len(different) > 1], are_alike)


def _label_near(appearances: Sequence[Appearance], least_correlation: float | None = None) -> NDArray[np.int64]:
    """For each appearance the smallest index of those that it is joined with."""
    hashes = np.array([entry.hash for entry in appearances], dtype=np.uint64)
    greys = np.frombuffer(b"".join(entry.greys for entry in appearances), dtype=np.uint8).reshape(-1, 256)
    colors = np.frombuffer(b"".join(entry.colors for entry in appearances), dtype=np.uint8).reshape(-1, 64, 3)
    labels = np.arange(len(hashes))
    for one, other in _pairs(hashes):
        is_apart = labels[one] != labels[other]
        left, right = one[is_apart], other[is_apart]
        is_near = _count_bits(hashes[left] ^ hashes[right]) <= MOST_BITS
        left, right = left[is_near], right[is_near]
        if len(left):
            looks_same = _same_colors(colors[left], colors[right])
            if least_correlation is not None:
                looks_same &= _correlation(greys[left], greys[right]) >= least_correlation
            _join(labels, left[looks_same], right[looks_same])
    return labels


def _pairs(hashes: NDArray[np.uint64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of indices whose hashes agree in two bytes; many arrays of them, with each pair up to 28 times."""
    octets = hashes.astype("<u8").view(np.uint8).reshape(-1, _BYTES).astype(np.uint16)
    for one, other in combinations(range(_BYTES), 2):
        keys = octets[:, one] << 8 | octets[:, other]
        order = np.lexsort((hashes, keys))
        ends = np.searchsorted(keys[order], keys[order], side="right")
        left = np.arange(len(hashes))
        for distance in range(1, _WINDOW + 1):
            left = left[left + distance < ends[left]]
            if not len(left):
                break
            yield order[left], order[left + distance]


def _count_joined(labels: NDArray[np.int64]) -> int:
    """How many indices have a label that another has."""
    counts = np.bincount(labels)
    return int(counts[counts > 1].sum())


def _correlation(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Of grey values ``(N, 256)``; 1 where one of two images is even."""
    first, second = (values - values.mean(axis=1, keepdims=True, dtype=np.float32) for values in (one, other))
    product, lengths = (first * second).sum(axis=1), np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    correlation: NDArray[np.float32] = np.divide(product, lengths, out=np.ones_like(product), where=lengths > 0)
    return correlation


def _same_colors(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether colours ``(N, 64, 3)`` differ by little but their brightness."""
    first, second = one.astype(np.float32), other.astype(np.float32)
    means = first.mean(axis=1, keepdims=True), second.mean(axis=1, keepdims=True)
    first, second = first - means[0], second - means[1]
    contrast = np.abs(first).mean(axis=(1, 2))
    residue = np.abs(first - second).mean(axis=(1, 2))
    shift = np.abs(means[0] - means[1]).max(axis=(1, 2))
    same: NDArray[np.bool_] = (residue <= np.minimum(MOST_COLOR, MOST_COLOR_SHARE * contrast)) & (shift <= MOST_SHIFT)
    return same


def _join(labels: NDArray[np.int64], left: NDArray[np.int64], right: NDArray[np.int64]) -> None:
    """Gives the images of each pair, and all that these are joined with, one label; in place."""
    while True:
        one, other = labels[left], labels[right]
        is_apart = one != other
        if not is_apart.any():
            return
        np.minimum.at(labels, np.maximum(one, other)[is_apart], np.minimum(one, other)[is_apart])
        while (labels[labels] != labels).any():
            labels[:] = labels[labels]


_BITS_OF_16 = np.array([number.bit_count() for number in range(1 << 16)], dtype=np.uint8)


def _count_bits(values: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """The number of ones of each value; numpy has that from 2.0 on."""
    counts: NDArray[np.uint8] = _BITS_OF_16[values.view(np.uint16).reshape(-1, 4)].sum(axis=1, dtype=np.uint8)
    return counts
