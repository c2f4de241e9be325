"""Splits that do not leak, as committed lists: ``splits/<set>.csv.gz`` with a row ``split,group,path`` for each image.

    python benchmarks/real_splits.py plankton --images data/plankton/images

A class is the folder that holds the image. Images that look the same, as ``dhvt check`` finds them, have a group, and a group
is wholly in one split. Copies of a file in two classes are in none: their label is unknown. Each class gives a fifth of its
images to test and a tenth to val, as nearly as its groups allow; groups of more than 20 images are trained on.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from dhvt.data.inspection.inspection import Inspection, inspect
from dhvt.hardware.cpus import available_cpus

FOLDER = Path(__file__).with_name("splits")
SPLITS = ("train", "val", "test")
SHARES = {"test": 0.2, "val": 0.1}
LARGEST_HELD_OUT = 20
"""Images of a group that may be tested on: a larger one would be most of its class's test images."""


@dataclass(frozen=True)
class Entry:
    """An image of a split.

    Args:
        group: a number for images that look the same; empty for an image that looks like no other.
        path: below the folder of the images; its last folder is the class.
    """

    split: str
    group: str
    path: str

    @property
    def label(self) -> str:
        return PurePosixPath(self.path).parent.name


def read_splits(path: Path) -> list[Entry]:
    """The entries of a committed list.

    Raises:
        ValueError: an image is listed twice, a group is in two splits, or a split is unknown.
    """
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        entries = [Entry(**row) for row in csv.DictReader(file)]
    require_no_leak(entries)
    return entries


def require_no_leak(entries: Sequence[Entry]) -> None:
    """Raises ValueError where an image is listed twice, a group is in two splits, or a split is unknown."""
    homes: dict[tuple[str, str], str] = {}
    for entry in entries:
        if entry.split not in SPLITS:
            raise ValueError(f"{entry.path} is in split {entry.split!r}; expected one of {', '.join(SPLITS)}")
        if ("path", entry.path) in homes:
            raise ValueError(f"{entry.path} is listed twice")
        homes["path", entry.path] = entry.split
        if entry.group and homes.setdefault(("group", entry.group), entry.split) != entry.split:
            raise ValueError(f"group {entry.group} is in {homes['group', entry.group]} and, by {entry.path}, in {entry.split}")


def write_splits(entries: Iterable[Entry], path: Path) -> None:
    """Writes a list that is the same file for the same entries."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("split", "group", "path"))
    writer.writerows((entry.split, entry.group, entry.path) for entry in sorted(entries, key=lambda entry: entry.path))
    path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


def write_lists(entries: Sequence[Entry], folder: Path, name: str, images: str) -> dict[str, Path]:
    """Writes ``<name>_train.txt``, ``_val.txt`` and ``_test.txt``, which ``dhvt train`` reads; returns them by split.

    Args:
        images: the images' folder, relative to ``folder``.
    """
    labels = {label: number for number, label in enumerate(sorted({entry.label for entry in entries}))}
    lists = {split: folder / f"{name}_{split}.txt" for split in SPLITS}
    for split, path in lists.items():
        lines = [f"{images}/{entry.path} {labels[entry.label]}\n" for entry in entries if entry.split == split]
        path.write_text("".join(lines), encoding="utf-8")
    return lists


def divide(paths: Sequence[str], groups: Iterable[Sequence[str]], *, seed: int = 0) -> list[Entry]:
    """Divides images into splits, groups wholly into one.

    Args:
        paths: of all images; the last folder of each is its class.
        groups: paths of images that look the same; those of one image may share some, and are joined then.
    """
    number = _join(groups)
    members: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        members[number.get(path, path)].append(path)
    sizes = Counter(PurePosixPath(path).parent.name for path in paths)
    left = {split: {label: round(share * size) for label, size in sizes.items()} for split, share in SHARES.items()}
    order = sorted(members)
    random.Random(seed).shuffle(order)
    entries = []
    for key in order:
        counts = Counter(PurePosixPath(path).parent.name for path in members[key])
        fits = (split for split in SHARES if all(left[split][label] >= count for label, count in counts.items()))
        split = next(fits, "train") if len(members[key]) <= LARGEST_HELD_OUT else "train"
        if split != "train":
            for label, count in counts.items():
                left[split][label] -= count
        entries += [Entry(split, key if path in number else "", path) for path in members[key]]
    return entries


def _join(groups: Iterable[Sequence[str]]) -> dict[str, str]:
    """The number of each path's group, after those that share a path were joined."""
    parents: dict[str, str] = {}

    def root(path: str) -> str:
        while parents.setdefault(path, path) != path:
            path = parents[path]
        return path

    for group in groups:
        for path in group:
            parents[root(path)] = root(group[0])
    names: dict[str, str] = {}
    return {path: names.setdefault(root(path), str(len(names))) for path in sorted(parents)}


def without_conflicts(found: Inspection) -> tuple[list[str], list[list[str]]]:
    """The paths of images whose label is certain, and the groups of those that look the same."""
    conflicting = {
        image.source.name(image.index) for group in found.exact if len({image.label for image in group}) > 1 for image in group
    }
    names = [image.source.name(image.index) for image in found.readable]
    groups = [[image.source.name(image.index) for image in group] for group in (*found.exact, *found.near)]
    kept = [[name for name in group if name not in conflicting] for group in groups]
    return [name for name in names if name not in conflicting], [group for group in kept if len(group) > 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the set")
    parser.add_argument("--images", type=Path, required=True, help="folder of class folders")
    args = parser.parse_args()
    with tqdm(unit="image") as bar:
        found = inspect(str(args.images), processes=available_cpus(), on_progress=lambda done, total: bar.update(done))
    paths, groups = without_conflicts(found)
    entries = divide(paths, groups)
    require_no_leak(entries)
    write_splits(entries, FOLDER / f"{args.name}.csv.gz")
    print(Counter(entry.split for entry in entries), f"{len(found.images) - len(paths)} images omitted")


if __name__ == "__main__":
    main()
