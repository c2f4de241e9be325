"""CIFAR-10 and CIFAR-100 in the published Python files, as torchvision downloads and unpacks them."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dhvt.data.sources.base import ImageSource
from dhvt.errors import DataError


@dataclass(frozen=True)
class Publication:
    """The files of one data set, by name, each with its published MD5 sum."""

    train: dict[str, str]
    test: dict[str, str]
    meta: dict[str, str]
    labels: str
    names: str


PUBLISHED = {
    "cifar-10-batches-py": Publication(
        train={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        test={"test_batch": "40351d587109b95175f43aff81a1287e"},
        meta={"batches.meta": "5ff9c542aee3614f3951f8cda6e48888"},
        labels="labels",
        names="label_names",
    ),
    "cifar-100-python": Publication(
        train={"train": "16019d7e3df5f24257cddd939b257f8d"},
        test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        meta={"meta": "7973b15100ade9c7d40fb424638fde48"},
        labels="fine_labels",
        names="fine_label_names",
    ),
}
"""By the name of the folder."""


class CIFARSource:
    """Images of ``root/cifar-10-batches-py`` or ``root/cifar-100-python``, encoded as BMP when they are read.

    BMP holds the pixels as they are; compressed formats' bytes, and so the data's fingerprint, change with the compressor.

    Raises:
        DataError: a file is missing or not the published one, or the classes differ.
    """

    description: ClassVar = "torchvision's CIFAR folder"

    def __init__(self, folder: Path, *, train: bool, classes: Sequence[str] | None = None) -> None:
        published = PUBLISHED[folder.name]
        entries = _unpickle(folder, published.train if train else published.test)
        names = _unpickle(folder, published.meta)[0][published.names]
        self.origin, self._name, self.classes = str(folder), folder.name, tuple(names)
        if classes is not None and tuple(classes) != self.classes:
            raise DataError(f"{folder} has classes {', '.join(self.classes[:5])}…, the model {', '.join(classes[:5])}…")
        planes: NDArray[np.uint8] = np.concatenate([entry["data"] for entry in entries])
        self._pixels = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # (N, 32, 32, 3)
        self.labels = np.concatenate([entry[published.labels] for entry in entries]).astype(np.int64)

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
        Image.fromarray(self._pixels[index]).save(buffer, "BMP")
        return buffer.getvalue()

    def locate(self, index: int) -> str:
        return f"{self.origin} image {index}"

    def name(self, index: int) -> str:
        return f"{self._name} image {index}"

    def path(self, index: int) -> Path | None:
        return None

    def groups(self, by: str, indices: NDArray[np.int64] | None = None) -> list[str]:
        raise DataError(f"the images in {self.origin} have no names to group by; omit --group-by")


def _find_folder(root: Path) -> Path | None:
    """``root`` or a folder in it, where the files are."""
    candidates = (root, *(root / name for name in PUBLISHED))
    return next((path for path in candidates if path.name in PUBLISHED and path.is_dir()), None)


def _unpickle(folder: Path, files: dict[str, str]) -> list[dict[str, Any]]:
    """The files' contents. A pickle can run code, so that none is opened whose sum is not the published one."""
    entries = []
    for name, md5 in files.items():
        try:
            data = (folder / name).read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {folder / name}: {error.strerror}") from error
        found = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if found != md5:
            raise DataError(f"{folder / name} is not the published file: its MD5 sum is {found}, expected {md5}")
        entries.append(pickle.loads(data, encoding="latin1"))
    return entries
