"""CIFAR-10 and CIFAR-100 as torchvision downloads them; the one source that needs torch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dhvt.data.sources.base import ImageSource
from dhvt.errors import DataError

_DATASETS = {"cifar-10-batches-py": "CIFAR10", "cifar-100-python": "CIFAR100"}
"""torchvision's class by the folder's name."""


class CIFARSource:
    """The published files, in ``root/cifar-10-batches-py`` or ``root/cifar-100-python``.

    torchvision checks the files' sums before it unpickles them.

    Raises:
        DataError: the files are incomplete, not the published ones, or have other classes.
    """

    def __init__(self, folder: Path, *, train: bool, classes: Sequence[str] | None = None) -> None:
        try:
            from torchvision import datasets
        except ImportError as error:
            raise DataError(f"{folder} needs torchvision: pip install 'dhvt-serve[train]'") from error
        try:
            dataset = getattr(datasets, _DATASETS[folder.name])(folder.parent, train=train)
        except RuntimeError as error:
            raise DataError(f"{folder} does not hold the published files: {error}") from error
        self.origin = str(folder)
        self._pixels = dataset.data  # (N, 32, 32, 3) uint8
        self._name = folder.name
        self.classes = tuple(dataset.classes)
        if classes is not None and tuple(classes) != self.classes:
            raise DataError(f"{folder} has classes {', '.join(self.classes[:5])}…, the model {', '.join(classes[:5])}…")
        self.labels = np.array(dataset.targets, dtype=np.int64)

    @staticmethod
    def detect(path: Path) -> bool:
        return _find_folder(path) is not None

    @staticmethod
    def list_splits(path: Path) -> Sequence[str]:
        return ("train", "test")

    @classmethod
    def open(cls, path: Path, split: str | None, classes: Sequence[str] | None) -> ImageSource:
        folder = _find_folder(path)
        assert folder is not None, "detect was asked first"
        return cls(folder, train=split == "train", classes=classes)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(self._pixels[index]).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    def locate(self, index: int) -> str:
        return f"{self.origin} image {index}"

    def name(self, index: int) -> str:
        return f"{self._name} image {index}"

    def path(self, index: int) -> Path | None:
        return None


def _find_folder(root: Path) -> Path | None:
    """``root`` or a folder in it, where torchvision's files are."""
    candidates = (root, *(root / name for name in _DATASETS))
    return next((path for path in candidates if path.name in _DATASETS and path.is_dir()), None)
