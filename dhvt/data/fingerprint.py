"""Fingerprints of data sets, by the content of their images: whether two sets are the same, and how much they share."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhvt.data.sources import ImageSource
from dhvt.data.threads import map_in_threads
from dhvt.errors import ImageError

SKETCH_SIZE = 1024
"""Image hashes in a sketch: 11 KB as text, and a standard error of the overlap of about 1.5 points."""

LEAST_SHARED = 3
"""Shared hashes in two sketches; of fewer, an estimated overlap may be chance."""

_WHOLE_BYTES = 256 * 1024
_WINDOW_BYTES = 64 * 1024


@dataclass(frozen=True)
class Fingerprint:
    """What identifies a data set, wherever its files lie.

    Args:
        images: number of images, unreadable ones included.
        digest: 32 hexadecimal digits of all images' contents, labels and names; independent of their order.
        sketch: the :data:`SKETCH_SIZE` smallest different 64-bit hashes of the images' contents, ascending,
            little-endian, in base64; all of them where there are fewer. For :func:`overlap`.
    """

    images: int
    digest: str
    sketch: str

    def to_dict(self) -> dict[str, int | str]:
        """Plain values, for a checkpoint or JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Fingerprint:
        """The inverse of :meth:`to_dict`; other keys, such as where the images came from, are ignored."""
        return cls(images=int(record["images"]), digest=str(record["digest"]), sketch=str(record["sketch"]))


def fingerprint(
    source: ImageSource, on_progress: Callable[[int], None] | None = None, hashes: Mapping[str, int] | None = None
) -> Fingerprint:
    """The fingerprint of a data set.

    Every image is read once: of files up to 256 KB all bytes, of larger ones 192 KB. From memory that takes about
    0.1 ms an image, from a disk as long as the disk needs. Nothing is decoded. An unreadable image counts with its name
    and label alone.

    Args:
        on_progress: called with the number of images done since the last call.
        hashes: of images that were read already, by :meth:`ImageSource.locate`; the others are read.
    """
    rows: list[bytes] = []
    different: set[int] = set()
    for index, value in enumerate(hash_images(source, on_progress, hashes)):
        if value is not None:
            different.add(value)
        content = b"unreadable" if value is None else value.to_bytes(8, "little")
        rows.append(content + f"\0{source.labels[index]}\0{source.name(index)}".encode("utf-8", "surrogateescape"))
    digest = hashlib.blake2b(digest_size=16)
    for row in sorted(rows):
        digest.update(len(row).to_bytes(4, "little") + row)
    return Fingerprint(len(source), digest.hexdigest(), _sketch(different))


def overlap(one: Fingerprint, other: Fingerprint) -> float:
    """Estimated share, 0 to 1, of the smaller set's different images that the other set has too, byte by byte.

    Exact where both sets have up to :data:`SKETCH_SIZE` images. Otherwise it is estimated from the images of both whose
    hashes lie in the range that both sketches cover: of sets of 50,000 and 10,000 images, 205 of the smaller set.
    An image that was saved again, scaled or renamed inside its bytes is another image.
    """
    first, second = _read_covered(one, other)
    smaller = min(len(first), len(second))
    return len(np.intersect1d(first, second, assume_unique=True)) / smaller if smaller else 0.0


def count_compared(one: Fingerprint, other: Fingerprint) -> int:
    """How many images of the smaller set :func:`overlap` is estimated from."""
    return min(map(len, _read_covered(one, other)))


def is_significant(one: Fingerprint, other: Fingerprint) -> bool:
    """Whether :func:`overlap` is exact, or was estimated from :data:`LEAST_SHARED` shared images or all of a smaller set."""
    first, second = _read_sketch(one.sketch), _read_sketch(other.sketch)
    if max(len(first), len(second)) < SKETCH_SIZE:
        return True
    shared = len(np.intersect1d(first, second, assume_unique=True))
    return shared >= min(LEAST_SHARED, len(first), len(second))


def hash_bytes(data: bytes) -> int:
    """64-bit hash of an encoded image: of all bytes, or of three windows and the size where it is large."""
    if len(data) <= _WHOLE_BYTES:
        return _hash(data)
    middle, end = (len(data) - _WINDOW_BYTES) // 2, len(data) - _WINDOW_BYTES
    return _hash(*(data[start : start + _WINDOW_BYTES] for start in (0, middle, end)), len(data).to_bytes(8, "little"))


def hash_file(path: Path) -> int:
    """:func:`hash_bytes` of a file's content, of which no more is read than is hashed.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(_WHOLE_BYTES + 1)
        if len(data) <= _WHOLE_BYTES:
            return _hash(data)
        size = file.seek(0, 2)
        windows = [data[:_WINDOW_BYTES]]
        for start in ((size - _WINDOW_BYTES) // 2, size - _WINDOW_BYTES):
            file.seek(start)
            windows.append(file.read(_WINDOW_BYTES))
    return _hash(*windows, size.to_bytes(8, "little"))


def _hash(*pieces: bytes) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for piece in pieces:
        digest.update(piece)
    return int.from_bytes(digest.digest(), "little")


def hash_images(
    source: ImageSource, on_progress: Callable[[int], None] | None = None, known: Mapping[str, int] | None = None
) -> Iterator[int | None]:
    """The images' hashes in order, see :func:`hash_bytes`, None for an unreadable one; arguments as for :func:`fingerprint`."""

    def hash_one(index: int) -> int | None:
        value = known.get(source.locate(index)) if known else None
        if value is not None:
            return value
        try:
            path = source.path(index)
            return hash_bytes(source.read(index)) if path is None else hash_file(path)
        except (ImageError, OSError):
            return None

    return map_in_threads(hash_one, range(len(source)), on_progress)


def _sketch(hashes: set[int]) -> str:
    smallest = np.sort(np.fromiter(hashes, dtype="<u8", count=len(hashes)))[:SKETCH_SIZE]
    return base64.b64encode(smallest.tobytes()).decode("ascii")


def _read_sketch(sketch: str) -> NDArray[np.uint64]:
    return np.frombuffer(base64.b64decode(sketch), dtype="<u8")


def _read_covered(one: Fingerprint, other: Fingerprint) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The hashes of each that lie in the range that both sketches cover."""
    first, second = _read_sketch(one.sketch), _read_sketch(other.sketch)
    covered = min(_last_covered(first), _last_covered(second))
    return first[first <= covered], second[second <= covered]


def _last_covered(hashes: NDArray[np.uint64]) -> int:
    """The largest hash up to which a sketch is complete."""
    return int(hashes[-1]) if len(hashes) == SKETCH_SIZE else 2**64 - 1
