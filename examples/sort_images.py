"""Sorts the images of a folder into a folder for each class, those that are too uncertain into ``unsure``.

    python examples/sort_images.py runs/mine/artifact photos/ sorted/

The images are copied. A model without reference images (``dhvt calibrate``) is unsure below a score of 0.8; one with them
where its prediction set has more than one label.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from pathlib import Path

from dhvt import Classifier, ImageError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}
COVERAGE = 0.95
MIN_SCORE = 0.8


def main() -> None:
    """Prints how many images are in each folder."""
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    model, source, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    classifier = Classifier.load(model)
    coverage = COVERAGE if classifier.artifact.card.reference else None
    paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
    counts: Counter[str] = Counter()
    for path, result in zip(paths, classifier.classify_many(paths, top_k=1, coverage=coverage), strict=True):
        if isinstance(result, ImageError):
            print(f"{path}: {result}", file=sys.stderr)
            continue
        is_sure = len(result.prediction_set) == 1 if result.prediction_set else result[0]["score"] >= MIN_SCORE
        label = result[0]["label"] if is_sure else "unsure"
        copy = target / label / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
        counts[label] += 1
    for label, count in counts.most_common():
        print(f"{label}: {count:,}")


if __name__ == "__main__":
    main()
