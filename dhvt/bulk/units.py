"""What a bulk job reads, in units: a unit's rows are one file of the output, which is there whole or not at all.

A unit is :data:`PATHS` image files, a tar archive, or a row group of a Parquet file. Files are opened through fsspec, so that
they may be local or at ``s3://``, ``gs://``, ``hf://`` and others whose package is installed.
"""

from __future__ import annotations

import errno
import glob
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self

from dhvt.data.formats import SUFFIXES
from dhvt.data.sources.base import find_files, is_hidden, refuse_folder
from dhvt.data.sources.parquet import IMAGE_COLUMNS
from dhvt.errors import DataError, ImageError

PATHS = 4096
"""Image files in a unit."""

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.zst")
KEY_COLUMNS = ("__key__", "key", "id", "path", "file_name")
"""Columns of a Parquet file, the first of which names its rows."""

_OF_PATHS = {errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.ENXIO}
"""Errors of a path itself: a link to itself, a name that is too long, a socket."""

Item = tuple[str, bytes | ImageError]
"""An image's path or key, and its file's bytes, or why there are none."""


class PassingError(DataError):
    """The network or the disk failed, so that reading again may succeed: what was to be read is not done."""


@dataclass(frozen=True)
class Unit:
    """A part of a job's input.

    Args:
        kind: ``files``, ``tar`` or ``parquet``.
        paths: the image files; or the one archive or Parquet file.
        group: the row group of a Parquet file.
        images: how many; None where only reading it tells.
    """

    kind: str
    paths: tuple[str, ...]
    group: int = 0
    images: int | None = None

    def to_row(self) -> dict[str, Any]:
        """Plain values; the paths as bytes, since a file's name need not be UTF-8."""
        return {
            "kind": self.kind,
            "paths": [os.fsencode(path) for path in self.paths],
            "group": self.group,
            "images": self.images,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Unit:
        """The unit of :meth:`to_row`."""
        return cls(row["kind"], tuple(map(os.fsdecode, row["paths"])), int(row["group"]), row["images"])


def find_units(source: str) -> list[Unit]:
    """The units of a folder, a pattern, a file with a path in each line, a tar archive or a Parquet file.

    Raises:
        DataError: there is no image, or it cannot be read.
    """
    try:
        paths = _list(_absolute(source))
        units = list(_divide(paths, listed=source.endswith(".txt")))
    except DataError:
        raise
    except Exception as error:  # whatever the file system's package raises
        raise DataError(f"{source} cannot be read: {_say(error)}") from error
    if not units:
        endings = ", ".join(sorted({*SUFFIXES, *TAR_SUFFIXES, ".parquet"}))
        raise DataError(f"{source} has no images; expected files with endings {endings}")
    return units


def _is_url(path: str) -> bool:
    return "://" in path


def _absolute(path: str) -> str:
    """A local path as it is from any folder."""
    return path if _is_url(path) else str(Path(os.path.expanduser(path)).absolute())


def _open(path: str, mode: str = "rb", **options: Any) -> AbstractContextManager[Any]:
    """A file to read, local unless ``path`` is a URL: fsspec alone would take any ``::`` for a chain of URLs."""
    import fsspec

    opened: AbstractContextManager[Any]
    if _is_url(path):
        opened = fsspec.open(path, mode, **options)
    else:
        opened = fsspec.core.OpenFile(fsspec.filesystem("file"), path, mode, **options)
    return opened


def _list(source: str) -> list[str]:
    import fsspec

    if source.endswith(".txt"):
        with _open(source, "rt", encoding="utf-8-sig", errors="surrogateescape") as file:
            return [_absolute(line.strip()) for line in file if line.strip()]
    system, path = fsspec.core.url_to_fs(source) if _is_url(source) else (fsspec.filesystem("file"), source)
    local = "file" in system.protocol
    if system.isdir(path) and local:  # fsspec follows no linked folders
        found = list(map(str, find_files(Path(path), refuse_folder)))
    elif system.isdir(path):
        found = [name for name in system.find(path) if not _is_hidden(name, path)]
    elif system.exists(path):
        return [source]
    elif glob.has_magic(path):
        found = glob.glob(path, recursive=True) if local else system.glob(path)
    else:
        raise DataError(f"{source} does not exist")
    return [name if local else str(system.unstrip_protocol(name)) for name in sorted(found)]


def _is_hidden(name: str, folder: str) -> bool:
    return any(is_hidden(part) for part in PurePosixPath(name.removeprefix(folder)).parts)


def _divide(paths: Sequence[str], *, listed: bool) -> Iterator[Unit]:
    """Other files, as notes beside the images, are left out, unless the paths were ``listed`` one by one."""
    images = []
    for path in paths:
        if path.endswith(TAR_SUFFIXES):
            yield Unit("tar", (path,))
        elif path.endswith(".parquet"):
            for group, rows in enumerate(_count_rows(path)):
                yield Unit("parquet", (path,), group, rows)
        elif listed or PurePosixPath(path).suffix.lower() in SUFFIXES:
            images.append(path)
    for start in range(0, len(images), PATHS):
        part = tuple(images[start : start + PATHS])
        yield Unit("files", part, images=len(part))


def _count_rows(path: str) -> list[int]:
    """Of each row group."""
    import pyarrow.parquet as pq

    try:
        with _open(path) as file:
            metadata = pq.ParquetFile(file).metadata
    except Exception as error:  # of the file system or the Parquet file, whose classes are many
        raise DataError(f"{path} cannot be read: {_say(error)}") from error
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


def read_unit(unit: Unit) -> Iterator[Item]:
    """Its images, in the same order each time. What cannot be read is an :class:`~dhvt.errors.ImageError` in its place.

    An archive or Parquet file that cannot be read to its end has, after the images before, one error under its own name.

    Raises:
        PassingError: the network or the disk fails.
    """
    readers: dict[str, Callable[[Unit], Iterator[Item]]] = {"files": _read_files, "tar": _read_tar, "parquet": _read_rows}
    try:
        yield from readers[unit.kind](unit)
    except PassingError:
        raise
    except Exception as error:  # of the file system, the archive or the Parquet file, whose classes are many
        _raise_passing(unit.paths[0], error)
        yield unit.paths[0], ImageError(f"{unit.paths[0]} cannot be read further: {_say(error)}")


def _read_files(unit: Unit) -> Iterator[Item]:
    for path in unit.paths:
        try:
            with _open(path) as file:
                data = file.read()
        except Exception as error:
            _raise_passing(path, error)
            yield path, ImageError(f"{path} cannot be read: {_say(error)}")
        else:
            yield path, data


def _raise_passing(path: str, error: Exception) -> None:
    """Raises PassingError where the error is of the network or the disk and not of what is read, which alone has no number."""
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError):
        return
    if isinstance(error, OSError) and error.errno in _OF_PATHS:
        return
    if isinstance(error, TimeoutError | ConnectionError) or (isinstance(error, OSError) and error.errno is not None):
        raise PassingError(f"{path} cannot be read now: {_say(error)}") from error


class _Header(tarfile.TarInfo):
    """A member's header; a damaged or cut one is an error, where tarfile takes it for the archive's end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if any(buf):  # zeros are the end
                raise tarfile.ReadError(f"a header is damaged or cut, or other data follow the end: {error}") from error
            raise


def _read_tar(unit: Unit) -> Iterator[Item]:
    """An archive's images, and those of archives that were appended to it as files."""
    path = unit.paths[0]
    compression = {"gz": "gzip", "tgz": "gzip", "zst": "zstd"}.get(path.rpartition(".")[2])
    with (
        _open(path, compression=compression) as file,
        tarfile.open(fileobj=file, mode="r|", ignore_zeros=True, tarinfo=_Header) as archive,
    ):
        end = 0
        for member in archive:
            end = archive.offset
            if PurePosixPath(member.name).suffix.lower() not in SUFFIXES or _is_hidden(member.name, ""):
                continue
            key = f"{path}/{member.name}"
            if member.islnk() or member.issym():
                yield key, ImageError(f"{key} is a link, which is not followed; pack with tar --dereference --hard-dereference")
            elif member.isfile():
                content = archive.extractfile(member)
                assert content is not None
                yield key, content.read()
        if archive.offset == end:
            raise tarfile.ReadError("the zeros at its end are missing, so that it may have been cut")


def _read_rows(unit: Unit) -> Iterator[Item]:
    import pyarrow.parquet as pq

    path = unit.paths[0]
    with _open(path) as opened:
        file = pq.ParquetFile(opened)
        image = next((name for name in IMAGE_COLUMNS if name in file.schema_arrow.names), None)
        if image is None:
            raise DataError(f"it has no column {' or '.join(IMAGE_COLUMNS)}; it has {', '.join(file.schema_arrow.names)}")
        key = next((name for name in KEY_COLUMNS if name in file.schema_arrow.names), None)
        first = sum(file.metadata.row_group(group).num_rows for group in range(unit.group))
        names = [image] if key is None else [image, key]
        batches = file.iter_batches(batch_size=256, row_groups=[unit.group], columns=names)
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(rows, first):
            name = f"{path} row {number}" if key is None or row[key] is None else str(row[key])
            yield name, _bytes_of(row[image])


def _bytes_of(value: Any) -> bytes | ImageError:
    data = value.get("bytes") if isinstance(value, dict) else value
    return bytes(data) if isinstance(data, bytes | bytearray) else ImageError("the row holds no image bytes")


def _say(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
