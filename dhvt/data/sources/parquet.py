"""Parquet files in the Hugging Face image schema; needs pyarrow."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dhvt.data.sources.base import ImageSource, is_hidden, refuse_identifiers, split_of_file
from dhvt.errors import DataError, ImageError

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "fine_label", "labels")
_MAGIC = b"PAR1"
_log = logging.getLogger(__name__)


class ParquetSource:
    """Images in the rows of Parquet files: ``img`` or ``image`` with ``bytes``, and ``label`` or ``fine_label``.

    Labels are numbers, whose class names come from the file's metadata, else they are the numbers; or they are the names
    themselves, numbered in their order. The encoded images are held in memory.

    Raises:
        DataError: a file cannot be read, lacks a column, or has other classes than another file or the model; or pyarrow is
            not installed.
    """

    description: ClassVar = "a Parquet file, or a folder of them"

    def __init__(self, origin: Path, paths: Sequence[Path], classes: Sequence[str] | None = None) -> None:
        self.origin, self._paths = str(origin), list(paths)
        tables = _read_tables(self._paths)
        self._ends = np.cumsum([table.num_rows for table in tables])
        table = _join_tables(tables, paths[0])
        self._bytes = _image_column(table, paths[0])
        label_column = _pick_column(table, LABEL_COLUMNS, paths[0])
        names = _common_class_names(tables, label_column, self._paths)
        table = _decode_dictionary(table, label_column)
        if _is_text(table[label_column].type):
            table, names = _number_labels(table, label_column, names or classes, paths[0])
        self.labels = _read_labels(table, label_column, paths[0])
        if names is None and classes is not None:
            self.labels = _place_in(classes, self.labels, paths[0])
        self.classes = _choose_classes(names, classes, self.labels, paths[0])

    @staticmethod
    def detect(path: Path) -> bool:
        return bool(_files(path)) if path.is_dir() else path.suffix == ".parquet" or _starts_as_parquet(path)

    @staticmethod
    def list_splits(path: Path) -> Sequence[str]:
        return tuple(_files_by_split(path)) if path.is_dir() else ()

    @classmethod
    def open(cls, path: Path, split: str | None, classes: Sequence[str] | None) -> ImageSource:
        if split is None:
            return cls(path, _files(path) if path.is_dir() else [path], classes)
        ignored = [file.name for file in _files(path) if split_of_file(file) is None]
        if ignored:
            _log.warning("%s: ignored beside its splits: %s", path, ", ".join(ignored[:5]))
        return cls(path, _files_by_split(path)[split], classes)

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

    def groups(self, by: str, indices: NDArray[np.int64] | None = None) -> list[str]:
        import pyarrow.parquet as pq

        values: list[Any] = []
        for path in self._paths:
            columns = pq.read_schema(path).names
            if by not in columns:
                raise DataError(f"--group-by {by}: {path} has no column of that name; it has {', '.join(columns)}")
            values += pq.read_table(path, columns=[by])[by].to_pylist()
        chosen = range(len(self)) if indices is None else indices.tolist()
        without = next((index for index in chosen if values[index] is None), None)
        if without is not None:
            raise DataError(
                f"--group-by {by}: {self.locate(without)} has no value in that column; add one, or leave it out with --exclude"
            )
        return [str(values[index]) for index in chosen]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.parquet") if not is_hidden(path.name))


def _files_by_split(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for file in _files(folder):
        split = split_of_file(file)
        if split is not None:
            found.setdefault(split, []).append(file)
    return found


def _starts_as_parquet(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def _read_tables(paths: Sequence[Path]) -> list[pa.Table]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(f"{paths[0]} is Parquet, which needs pyarrow: pip install 'dhvt-serve[parquet]'") from error
    tables = []
    for path in paths:
        try:
            tables.append(pq.read_table(path))
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"cannot read {path} as Parquet: {error}") from error
    return tables


def _join_tables(tables: list[pa.Table], path: Path) -> pa.Table:
    import pyarrow as pa

    try:
        table = pa.concat_tables(tables)
    except pa.ArrowException as error:
        raise DataError(f"the Parquet files beside {path} have different columns: {error}") from error
    if not table.num_rows:
        raise DataError(f"{path} has no rows")
    return table


def _pick_column(table: pa.Table, names: tuple[str, ...], path: Path) -> str:
    for name in names:
        if name in table.column_names:
            return name
    raise DataError(f"{path} has no column {' or '.join(names)}; it has {', '.join(table.column_names)}")


def _image_column(table: pa.Table, path: Path) -> pa.ChunkedArray:
    """The encoded images, of a column of bytes or of Hugging Face's ``{bytes, path}``."""
    import pyarrow as pa

    name = _pick_column(table, IMAGE_COLUMNS, path)
    column = table[name]
    if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        column = pa.chunked_array([chunk.field("bytes") for chunk in column.chunks])
    if not _is_binary(column.type):
        raise DataError(f"{path}, column {name!r}: expected encoded images, as bytes or {{bytes, path}}; found {column.type}")
    return column


def _decode_dictionary(table: pa.Table, column: str) -> pa.Table:
    """The table with plain values in a column of pandas' categories."""
    import pyarrow as pa

    labels = table[column]
    if not pa.types.is_dictionary(labels.type):
        return table
    return table.set_column(table.column_names.index(column), column, labels.cast(labels.type.value_type))


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_binary(kind: pa.DataType) -> bool:
    import pyarrow as pa

    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(test(kind) for test in tests)


def _number_labels(table: pa.Table, column: str, classes: Sequence[str] | None, path: Path) -> tuple[pa.Table, list[str]]:
    """The table with the classes' numbers in place of their names, and the classes: those given, else all, sorted."""
    import pyarrow as pa
    import pyarrow.compute as pc

    labels = table[column]
    found = sorted(pc.unique(labels.drop_null()).to_pylist())
    names = list(classes or found)
    unknown = [name for name in found if name not in names]
    if unknown:
        raise DataError(f"{path}, column {column!r}: {', '.join(unknown[:5])} is no class; they are {', '.join(names[:5])}…")
    numbers = pc.index_in(labels, value_set=pa.array(names, labels.type))
    return table.set_column(table.column_names.index(column), column, numbers), names


def _read_labels(table: pa.Table, column: str, path: Path) -> NDArray[np.int64]:
    import pyarrow as pa

    labels = table[column]
    if not pa.types.is_integer(labels.type) or labels.null_count:
        found = f"{labels.null_count} rows without one" if labels.null_count else f"values of type {labels.type}"
        raise DataError(
            f"{path}, column {column!r}: labels must be whole numbers from 0 or names, one in each row; found {found}"
        )
    numbers: NDArray[np.int64] = labels.to_numpy().astype(np.int64)
    return numbers


def _common_class_names(tables: list[pa.Table], label_column: str, paths: Sequence[Path]) -> list[str] | None:
    """The class names in the files' metadata, which must be the same in all; None where no file has any."""
    first, *others = [_class_names(table.schema, label_column) or [] for table in tables]
    for path, names in zip(paths[1:], others, strict=True):
        for label, (one, other) in enumerate(zip_longest(first, names)):
            if one != other:
                found = [repr(name) if name else "without a name" for name in (one, other)]
                raise DataError(
                    f"label {label} is {found[0]} in {paths[0]} and {found[1]} in {path}; all files need the same class "
                    "names in the same order: write them again with one list of names"
                )
    return first or None


def _class_names(schema: pa.Schema, label_column: str) -> list[str] | None:
    metadata = (schema.metadata or {}).get(b"huggingface")
    if metadata is None:
        return None
    feature = json.loads(metadata).get("info", {}).get("features", {}).get(label_column)
    return feature.get("names") if isinstance(feature, dict) else None  # of several labels in a row it is a list


def _place_in(classes: Sequence[str], labels: NDArray[np.int64], path: Path) -> NDArray[np.int64]:
    """Numbers without names as positions in the given classes: of the one with that name, which for 2 comes after 10."""
    if not all(map(str.isdecimal, classes)):
        _log.warning("%s: its labels are numbers without names, and count in the order of the given classes", path)
        return labels
    position = {int(name): index for index, name in enumerate(classes)}
    missing = sorted({*labels.tolist()} - {*position})
    if missing:
        raise DataError(f"{path} has the label {missing[0]}, but there are the classes {', '.join(classes[:5])}…")
    return np.array([position[label] for label in labels.tolist()], np.int64)


def _choose_classes(
    own: list[str] | None, wanted: Sequence[str] | None, labels: NDArray[np.int64], path: Path
) -> tuple[str, ...]:
    """The wanted class names, else the file's own, else numbers."""
    low, top = int(labels.min()), int(labels.max())
    if not (wanted or own):
        refuse_identifiers(labels, str(path))
    classes = tuple(wanted or own or (str(label) for label in range(top + 1)))
    if low < 0 or top >= len(classes):
        raise DataError(f"{path} has labels from {low} to {top}, but there are {len(classes)} classes")
    if wanted is not None and own and tuple(own) != tuple(wanted):
        raise DataError(f"{path} has classes {', '.join(own[:5])}…, the model {', '.join(wanted[:5])}…")
    return classes
