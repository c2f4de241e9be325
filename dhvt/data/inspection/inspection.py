"""All images of a data set, looked at once: :func:`inspect`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

from dhvt.data.exclusion import ExcludeList, keep
from dhvt.data.groups import shared_groups
from dhvt.data.inspection.duplicates import group_exact, group_near
from dhvt.data.inspection.facts import ImageFacts
from dhvt.data.inspection.scan import scan
from dhvt.data.inspection.unused import UnusedFiles, find_unused
from dhvt.data.sources import ImageSource, list_splits, open_dataset
from dhvt.data.splits import WHOLE, NamedSplit, open_first_split
from dhvt.errors import DataError


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """An image of a split, by its index there, and what was found."""

    split: str
    source: ImageSource
    index: int
    label: str
    facts: ImageFacts

    @property
    def place(self) -> str:
        """Where it is, as commands name it."""
        return self.source.locate(self.index)


@dataclass(frozen=True)
class Inspection:
    """What a data set holds.

    Args:
        is_divided: whether there are images to validate on, so that none are held out of those to train on.
        splits: by name, in the order train, val, test; :data:`WHOLE` of a data set that is not divided.
        images: of all splits, in order.
        exact, near: groups of duplicates, see :mod:`dhvt.data.inspection.duplicates`.
        are_alike: the images look so alike that only nearly equal ones are in ``near``.
        unused: the files that are no images of a split.
        shared_groups: by two splits, the groups of ``--group-by`` that are in both.
        white: what the user says is white, see :func:`dhvt.data.levels.find_white_levels`.
    """

    data: str
    is_divided: bool
    splits: dict[str, ImageSource]
    images: list[CheckedImage]
    exact: list[list[CheckedImage]]
    near: list[list[CheckedImage]]
    are_alike: bool
    unused: UnusedFiles
    shared_groups: dict[tuple[str, str], list[str]]
    white: float | None = None

    @cached_property
    def readable(self) -> list[CheckedImage]:
        """The images that can be decoded."""
        return [image for image in self.images if image.facts.error is None]

    @property
    def broken(self) -> list[CheckedImage]:
        """The images that cannot."""
        return [image for image in self.images if image.facts.error is not None]

    @cached_property
    def class_counts(self) -> dict[str, Counter[str]]:
        """Readable images by split and class; classes without any have 0."""
        counts = {split: Counter(dict.fromkeys(source.classes, 0)) for split, source in self.splits.items()}
        for image in self.readable:
            counts[image.split][image.label] += 1
        return counts

    @property
    def training_split(self) -> str:
        """The split that is trained on."""
        return next((split for split in ("train", WHOLE) if split in self.splits), next(iter(self.splits)))


def open_splits(data: str, val: str | None) -> dict[str, ImageSource]:
    """Every split of a data set, and the images of ``val`` as ``val``, or as its own split's name where that is free.

    Raises:
        DataError: nothing usable is there.
    """
    names = list_splits(data)
    splits = {name: open_dataset(data, name) for name in names}
    if not names:
        path = Path(data)
        source, own = open_first_split(path, ["train"])
        splits[own if own == "train" else WHOLE] = source
    if val is not None:
        found: NamedSplit = open_first_split(val, ["val", "test"])
        name = "test" if found.split == "test" and "test" not in splits else "val"
        splits[name if name not in splits else f"val of {Path(val).name}"] = found.source
    return splits


def inspect(
    data: str,
    val: str | None = None,
    *,
    group_by: str | None = None,
    white: float | None = None,
    exclude: ExcludeList | None = None,
    processes: int = 1,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Inspection:
    """Reads all images of a data set and compares them.

    Args:
        data, val, group_by: as for :func:`dhvt.data.splits.open_training_data`; all splits of ``data`` are read.
        white: what the user says is white, in images of more than 8 bits.
        exclude: images that are left out.
        processes: that decode.
        on_progress: called with the number of images done since the last call, and that of all.

    Raises:
        DataError: nothing usable is there, or an image has no group.
        ConfigError: ``group_by`` is no regular expression.
    """
    splits = open_splits(data, val)
    unused = _find_unused(data, val, splits)
    if exclude is not None:
        splits = {name: exclude.leave_out(source)[0] for name, source in splits.items()}
    if group_by is not None:
        with suppress(DataError):  # perhaps of a broken image, which needs no group; a wrong expression need not wait
            _find_shared_groups(splits, group_by)
    total = sum(map(len, splits.values()))
    images: list[CheckedImage] = []
    for name, source in splits.items():
        facts = scan(source, processes, lambda done: on_progress(done, total))
        labels = [source.classes[label] for label in source.labels.tolist()]
        images += [CheckedImage(name, source, index, labels[index], found) for index, found in enumerate(facts)]
    shared = {} if group_by is None else _find_shared_groups(_readable(splits, images), group_by)
    every = [image.facts for image in images]
    near, are_alike = group_near(every)
    return Inspection(
        data=data,
        is_divided=val is not None or "val" in splits,
        splits=splits,
        images=images,
        exact=[[images[index] for index in group] for group in group_exact(every)],
        near=[[images[index] for index in group] for group in near],
        are_alike=are_alike,
        unused=unused,
        shared_groups=shared,
        white=white,
    )


def _readable(splits: dict[str, ImageSource], images: Sequence[CheckedImage]) -> dict[str, ImageSource]:
    """The splits without broken images, which a training leaves out and which need no group."""
    kept = {name: [image.index for image in images if image.split == name and image.facts.error is None] for name in splits}
    return {name: keep(source, kept[name]) for name, source in splits.items()}


def _find_shared_groups(splits: dict[str, ImageSource], by: str) -> dict[tuple[str, str], list[str]]:
    for source in splits.values():
        source.groups(by)  # what a training would refuse, even where there is one split
    return {(one, other): shared_groups(splits[one], splits[other], by) for one, other in combinations(splits, 2)}


def _find_unused(data: str, val: str | None, splits: dict[str, ImageSource]) -> UnusedFiles:
    paths = [source.path(index) for source in splits.values() for index in range(len(source))]
    used = [path for path in paths if path is not None]
    if not used:
        return UnusedFiles([], [], [], [])
    return find_unused([Path(os.fsdecode(root)) for root in (data, val) if root is not None], used)
