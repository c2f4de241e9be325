"""The number of images of each class."""

from __future__ import annotations

from collections import Counter

from dhvt.data.sources import ImageSource

IMBALANCE = 10
"""Beyond this many times as many images in the largest class as in the smallest, top-1 alone misleads."""


UNEVEN = 2
"""From this many times on, what counts every class alike is worth a look."""


def class_counts(source: ImageSource) -> dict[str, int]:
    """Images per class name."""
    counts = Counter(source.labels.tolist())
    return {name: counts[label] for label, name in enumerate(source.classes)}


def is_uneven(source: ImageSource) -> bool:
    """Whether the largest class has at least :data:`UNEVEN` times the images of the smallest."""
    counts = class_counts(source).values()
    return max(counts) >= UNEVEN * min(counts)


def describe_balance(source: ImageSource) -> str:
    """One line with the range of images per class; a second line where a class has none or far fewer than another."""
    counts = class_counts(source)
    few, many = (choose(counts, key=lambda name: counts[name]) for choose in (min, max))
    if counts[few] == counts[many]:
        return f"{len(counts)} classes of {counts[few]} images"
    line = f"{len(counts)} classes of {counts[few]} ({few}) to {counts[many]} ({many}) images"
    empty = [name for name in counts if not counts[name]]
    if empty:
        line += f"\n{len(empty)} of them have none and cannot be learned: {', '.join(empty[:5])}"
    elif counts[many] > IMBALANCE * counts[few]:
        times = counts[many] / counts[few]
        line += f"\n{many} has {times:.0f} times the images of {few}: read the accuracy per class in the report"
    return line
