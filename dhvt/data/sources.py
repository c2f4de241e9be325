"""Where labelled images come from: class folders, Parquet in the Hugging Face image schema, DomainNet's lists, or the
CIFAR files that torchvision downloads.

A source hands out encoded bytes and labels; :mod:`dhvt.data.decode` decodes them. Only CIFAR's own files need torch.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dhvt.data.decode import SUFFIXES, read_file
from dhvt.errors import DataError, ImageError

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "fine_label", "labels")


class ImageSource(Protocol):
    """Labelled encoded images, addressed by 0 ≤ index < len."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is an index into them."""
        ...

    @property
    def labels(self) -> NDArray[np.int64]:
        """``(len,)``, each in ``0 … len(classes) - 1``."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes:
        """One encoded image. Raises :class:`ImageError` when it cannot be read."""
        ...

    def locate(self, index: int) -> str:
        """Where it lies, for a message: a path, and the row in a Parquet file."""
        ...

    def name(self, index: int) -> str:
        """What tells it from the data set's others, wherever that lies: a path below its root, a file name and row."""
        ...

    def path(self, index: int) -> Path | None:
        """The file that holds this image and nothing else; None where there is no such file."""
        ...


class _FileSource:
    """One file per image."""

    _root: Path
    _paths: list[Path]

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> bytes:
        return read_file(self._paths[index])

    def locate(self, index: int) -> str:
        return str(self._paths[index])

    def name(self, index: int) -> str:
        return self._paths[index].relative_to(self._root).as_posix()

    def path(self, index: int) -> Path | None:
        return self._paths[index]


class FolderSource(_FileSource):
    """``root/<class name>/**/<image>``; classes in alphabetical order.

    Raises:
        DataError: no such folder, fewer than one class, or an unfamiliar layout.
    """

    def __init__(self, root: Path, classes: Sequence[str] | None = None) -> None:
        names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        self.classes = tuple(classes if classes is not None else names)
        unknown = sorted(set(names) - set(self.classes))
        if unknown:
            raise DataError(f"{root} has folders of classes that the model does not know: {', '.join(unknown[:5])}")
        self._root, self._paths = root, []
        labels: list[int] = []
        for label, name in enumerate(self.classes):
            found = sorted(path for path in (root / name).rglob("*") if path.suffix.lower() in SUFFIXES)
            self._paths += found
            labels += [label] * len(found)
        self.labels = np.array(labels, dtype=np.int64)
        if not self._paths:
            raise DataError(
                f"no images under {root}; expected {root}/<class name>/<image>, with endings {', '.join(sorted(SUFFIXES))}"
            )


class ParquetSource:
    """Parquet files in the Hugging Face schema: ``img`` or ``image`` with ``bytes``, ``label`` or ``fine_label``.

    Class names come from the file's metadata, else they are the numbers. The encoded images are held in memory.

    Raises:
        DataError: a file cannot be read or lacks a column.
    """

    def __init__(self, paths: Sequence[Path], classes: Sequence[str] | None = None) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        tables: list[pa.Table] = []
        for path in paths:
            try:
                tables.append(pq.read_table(path))
            except (OSError, pa.ArrowException) as error:
                raise DataError(f"cannot read {path} as Parquet: {error}") from error
        self._paths = list(paths)
        self._ends = np.cumsum([table.num_rows for table in tables])
        try:
            table = pa.concat_tables(tables)
        except pa.ArrowException as error:
            raise DataError(f"the Parquet files beside {paths[0]} have different columns: {error}") from error
        if not table.num_rows:
            raise DataError(f"{paths[0]} has no rows")
        image_column = _pick_column(table, IMAGE_COLUMNS, paths[0])
        label_column = _pick_column(table, LABEL_COLUMNS, paths[0])
        column = table[image_column]
        if pa.types.is_struct(column.type):
            column = pa.chunked_array([chunk.field("bytes") for chunk in column.chunks])
        self._bytes = column
        labels = table[label_column]
        if not pa.types.is_integer(labels.type) or labels.null_count:
            found = f"{labels.null_count} rows without one" if labels.null_count else f"values of type {labels.type}"
            raise DataError(
                f"{paths[0]}, column {label_column!r}: labels must be whole numbers from 0, one in each row; found {found}"
            )
        self.labels = labels.to_numpy().astype(np.int64)
        names = _class_names(tables[0].schema, label_column)
        top = int(self.labels.max())
        self.classes = tuple(classes or names or (str(label) for label in range(top + 1)))
        if int(self.labels.min()) < 0 or top >= len(self.classes):
            raise DataError(
                f"{paths[0]} has labels from {self.labels.min()} to {top}, but there are {len(self.classes)} classes"
            )
        if classes is not None and names and tuple(names) != tuple(classes):
            raise DataError(f"{paths[0]} has classes {', '.join(names[:5])}…, the model {', '.join(classes[:5])}…")

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes:
        data = self._bytes[index].as_py()
        if data is None:
            raise ImageError("the row holds no image bytes")
        return bytes(data)

    def locate(self, index: int) -> str:
        file = int(np.searchsorted(self._ends, index, side="right"))
        row = index - (int(self._ends[file - 1]) if file else 0)
        return f"{self._paths[file]} row {row}"

    def name(self, index: int) -> str:
        return Path(self.locate(index)).name

    def path(self, index: int) -> Path | None:
        return None


class ListSource(_FileSource):
    """DomainNet's published lists: text files with ``clipart/zebra/clipart_345_000115.jpg 344`` in each line.

    Paths are relative to their list's folder; a class is named after its images' folder.

    Args:
        paths: one list or several, such as those of several domains.

    Raises:
        DataError: a list cannot be read, has another layout, or gives one label to two folders.
    """

    def __init__(self, paths: Sequence[Path], classes: Sequence[str] | None = None) -> None:
        self._root, self._paths = paths[0].parent, []
        labels: list[int] = []
        names: dict[int, str] = {}
        for path in paths:
            for number, line in enumerate(_read_lines(path), start=1):
                name, _, label = line.rpartition(" ")
                image = Path(name)
                if not name or not label.isdigit() or len(image.parts) < 2 or image.is_absolute():
                    raise DataError(f"{path} line {number} is {line!r}; expected <domain>/<class>/<image> <label>")
                if names.setdefault(int(label), image.parent.name) != image.parent.name:
                    raise DataError(
                        f"{path} line {number} gives label {label} to {image.parent.name}; it was {names[int(label)]}'s"
                    )
                self._paths.append(path.parent / image)
                labels.append(int(label))
        if not labels:
            raise DataError(f"{paths[0]} lists no images")
        top = max(labels)
        self.classes = tuple(classes or (names.get(label, str(label)) for label in range(top + 1)))
        wrong = next((label for label, name in names.items() if self.classes[label : label + 1] != (name,)), None)
        if wrong is not None:
            raise DataError(f"{paths[0]} calls class {wrong} {names[wrong]}; the model knows {', '.join(self.classes[:5])}…")
        self.labels = np.array(labels, dtype=np.int64)


class CIFARSource:
    """CIFAR-10 or CIFAR-100 as torchvision downloads them: ``root/cifar-10-batches-py`` or ``root/cifar-100-python``.

    torchvision checks the files' sums before it unpickles them.

    Raises:
        DataError: the files are incomplete, or not the published ones.
    """

    FOLDERS: ClassVar = {"cifar-10-batches-py": "CIFAR10", "cifar-100-python": "CIFAR100"}

    def __init__(self, folder: Path, *, train: bool, classes: Sequence[str] | None = None) -> None:
        from torchvision import datasets

        try:
            dataset = getattr(datasets, self.FOLDERS[folder.name])(folder.parent, train=train)
        except RuntimeError as error:
            raise DataError(f"{folder} does not hold the published files: {error}") from error
        self._folder, self._pixels = folder, dataset.data  # (N, 32, 32, 3) uint8
        self.classes = tuple(dataset.classes)
        if classes is not None and tuple(classes) != self.classes:
            raise DataError(f"{folder} has classes {', '.join(self.classes[:5])}…, the model {', '.join(classes[:5])}…")
        self.labels = np.array(dataset.targets, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(self._pixels[index]).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    def locate(self, index: int) -> str:
        return f"{self._folder} image {index}"

    def name(self, index: int) -> str:
        return f"{self._folder.name} image {index}"

    def path(self, index: int) -> Path | None:
        return None


class Subset:
    """Some rows of another source, in the order given."""

    def __init__(self, source: ImageSource, indices: NDArray[np.int64]) -> None:
        self._source, self._indices = source, indices
        self.classes = source.classes
        self.labels = source.labels[indices]

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, index: int) -> bytes:
        return self._source.read(int(self._indices[index]))

    def locate(self, index: int) -> str:
        return self._source.locate(int(self._indices[index]))

    def name(self, index: int) -> str:
        return self._source.name(int(self._indices[index]))

    def path(self, index: int) -> Path | None:
        return self._source.path(int(self._indices[index]))


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path} as a list of images: {error}") from error


def _pick_column(table: pa.Table, names: tuple[str, ...], path: Path) -> str:
    for name in names:
        if name in table.column_names:
            return name
    raise DataError(f"{path} has no column {' or '.join(names)}; it has {', '.join(table.column_names)}")


def _class_names(schema: pa.Schema, label_column: str) -> list[str] | None:
    metadata = (schema.metadata or {}).get(b"huggingface")
    if metadata is None:
        return None
    feature: dict[str, Any] = json.loads(metadata).get("info", {}).get("features", {}).get(label_column, {})
    return feature.get("names")
