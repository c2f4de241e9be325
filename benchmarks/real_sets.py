"""Real image sets that no published weights have learned from: fetched, and divided by committed lists.

    python benchmarks/real_sets.py --out data plankton blood_cells groceries

Clones each set's public repository, or takes ``--source`` where it is there already, and writes lists for ``dhvt train`` beside
it. None of the images is part of this project; ``SETS`` names where each comes from and under which licence.
"""

from __future__ import annotations

import argparse
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from real_splits import FOLDER, SPLITS, Entry, read_splits, require_no_leak, write_lists

PROCESSOR_MINUTES = 80
"""Of each training on one of these sets: 40 minutes of two cores."""

TOLERANCE = 0.15
"""By which share a training's epochs may differ from those of the budget, at the rate that was measured last for its model."""


def budget_epochs(images: int, images_per_processor_s: float, share: float = 1.0) -> int:
    """The epochs of so many images that the budget, or a share of it, holds; at least 1."""
    return max(round(share * PROCESSOR_MINUTES * 60 * images_per_processor_s / images), 1)


def has_budget(epochs: int, images: int, images_per_processor_s: float) -> bool:
    """Whether a training of so many epochs had the budget, so that it may be compared."""
    return abs(epochs / budget_epochs(images, images_per_processor_s) - 1) <= TOLERANCE


@dataclass(frozen=True, kw_only=True)
class RealSet:
    """A set of labelled images.

    Args:
        title: what the images show.
        url: of the repository that is cloned.
        images: the folder of the images in it.
        licence: as the repository states it.
        img_size: pixels of a side that models see.
        model_options: for ``dhvt train``, by variant, so that all transformers have equally large patches.
    """

    title: str
    url: str
    images: str
    licence: str
    img_size: int
    model_options: dict[str, tuple[str, ...]] = field(default_factory=dict)


_PATCH_8 = {"dhvt_tiny_cifar_patch4": ("patch_size=8",), "deit_tiny_patch16_224": ("patch_size=8",)}

SETS = {
    "plankton": RealSet(
        title="Plankton, 121 classes of very uneven size",
        url="https://github.com/Jaime-Rangel/Alexnet_Matlab",
        images="train",
        licence="none stated",
        img_size=32,
    ),
    "blood_cells": RealSet(
        title="Blood cells under the microscope, 8 classes",
        url="https://github.com/AuralinACC/Blood-Cell-Classification",
        images="PBC_dataset_normal_DIB",
        licence="MIT of the repository; of the images none stated there",
        img_size=96,
        model_options=_PATCH_8,
    ),
    "groceries": RealSet(
        title="Groceries photographed in shops, 81 classes",
        url="https://github.com/marcusklasson/GroceryStoreDataset",
        images="dataset",
        licence="MIT",
        img_size=96,
        model_options=_PATCH_8,
    ),
}


def fetch(name: str, out: Path, source: Path | None = None) -> dict[str, Path]:
    """The lists of a set by split, ``OUT/<name>/<name>_train.txt`` and so on; clones the images where they are not there.

    Args:
        source: a clone that is there already; it is not changed.
    """
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    clone = folder / "clone"
    if not clone.exists():
        if source is None:
            subprocess.run(["git", "clone", "--depth", "1", SETS[name].url, str(clone)], check=True)
        else:
            clone.symlink_to(source.resolve(), target_is_directory=True)
    images = f"clone/{SETS[name].images}"
    entries = _grocery_entries(folder / images) if name == "groceries" else read_splits(FOLDER / f"{name}.csv.gz")
    missing = [entry.path for entry in entries if not (folder / images / entry.path).exists()]
    if missing:
        raise SystemExit(f"{len(missing)} of {len(entries)} images are not in {folder / images}, such as {missing[0]}")
    return write_lists(entries, folder, name, images)


def _grocery_entries(images: Path) -> list[Entry]:
    """The set's own splits: lines such as ``train/Fruit/Apple/Pink-Lady/Pink-Lady_001.jpg, 4, 0``."""
    entries = []
    for split in SPLITS:
        lines = (images / f"{split}.txt").read_text(encoding="utf-8").splitlines()
        entries += [Entry(split, "", line.split(",")[0]) for line in lines]
    require_no_leak(entries)
    return entries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=SETS)
    parser.add_argument("--out", type=Path, required=True, help="folder for the images, some 130 to 300 MB a set")
    parser.add_argument("--source", type=Path, help="a clone that is there already, of the one set named")
    args = parser.parse_args()
    if args.source and len(args.names) > 1:
        parser.error("--source is a clone of one set; name one")
    for name in args.names:
        fetch(name, args.out, args.source)
        print(f"{name}: {SETS[name].url}, licence: {SETS[name].licence}")


if __name__ == "__main__":
    main()
