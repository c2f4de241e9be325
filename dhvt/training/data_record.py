"""What a checkpoint records of the images that it was trained and validated on."""

from __future__ import annotations

from typing import Any

from dhvt.data.fingerprint import fingerprint
from dhvt.data.splits import TrainingData


def describe_data(images: TrainingData) -> dict[str, Any]:
    """Fingerprints and counts, and the fraction that was held out."""
    return {
        "train": fingerprint(images.train).digest,
        "train_images": len(images.train),
        "val": fingerprint(images.val).digest,
        "val_images": len(images.val),
        "val_fraction": images.val_fraction,
    }
