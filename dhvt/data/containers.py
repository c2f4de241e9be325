"""What is inside of AVIF and HEIC files (ISO/IEC 14496-12, 23008-12) that the size which they declare does not tell.

The coded frames may be larger than the image, and more than one: a decoder learns that when it comes to them. Here their
headers alone are read. What cannot be parsed counts as nothing; the decoder will refuse it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

MAX_PARTS = 65_536
"""Boxes, extents and units of a file."""

_BEFORE_CHILDREN = {b"meta": 4}  # bytes of a box before those in it
_AV1, _HEVC = b"av01", b"hvc1"
_SEQUENCE_HEADER, _FRAME_HEADER, _FRAME = 1, 3, 6  # AV1's types of units
_LAST_SLICE = 31  # HEVC's units up to this type hold parts of pictures

Span = tuple[int, int]


class CodedFrames(NamedTuple):
    """The coded frames of a file.

    Args:
        largest: pixels of the largest of AV1; HEVC's decoder checks its own.
        pixels: of all of AV1 together.
        pictures: of HEVC, in the item that has most; one is usual.
    """

    largest: int
    pixels: int
    pictures: int


class TooManyPartsError(ValueError):
    """The file has more than :data:`MAX_PARTS`."""


def measure_frames(data: bytes) -> CodedFrames:
    """The frames that decoding an AVIF or HEIC file may process.

    Raises:
        TooManyPartsError: it is in more pieces than an image needs.
    """
    return _Walk(data).measure()


class _Walk:
    """One pass over a file, which stops after so many parts that a hostile one costs no time."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._left, self._unread = MAX_PARTS, 2 * len(data)

    def measure(self) -> CodedFrames:
        largest, pixels, pictures = 0, 0, 0
        for codec, item in (*self._items(), *self._samples()):
            if codec == _AV1:
                size, frames = self._measure_av1(item)
                largest, pixels = max(largest, size), pixels + size * max(frames, 1)
            else:
                pictures = max(pictures, self._count_hevc(item))
        return CodedFrames(largest, pixels, pictures)

    def _spend(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise TooManyPartsError(f"it is in more than {MAX_PARTS:,} parts")

    def _read(self, start: int, size: int) -> bytes:
        """Coded bytes, of which there cannot be many more than the file has: extents may overlap."""
        found = self.data[start : start + size]
        self._unread -= len(found)
        if self._unread < 0:
            raise TooManyPartsError("its parts repeat its bytes")
        return found

    def _number(self, start: int, width: int) -> int:
        return int.from_bytes(self.data[start : start + width], "big")

    def _find(self, span: Span, *path: bytes) -> list[Span]:
        """The contents of the boxes at a path of names."""
        spans = [span]
        for name in path:
            spans = [child for start, end in spans for found, child in self._boxes(start, end) if found == name]
        return spans

    def _boxes(self, start: int, end: int) -> Iterator[tuple[bytes, Span]]:
        while start + 8 <= end:
            self._spend()
            size, name, content = self._number(start, 4), self.data[start + 4 : start + 8], start + 8
            if size == 1:
                size, content = self._number(start + 8, 8), start + 16
            stop = end if size == 0 else min(start + size, end)
            if stop < content:
                return
            yield name, (content + _BEFORE_CHILDREN.get(name, 0), stop)
            start = stop

    def _items(self) -> Iterator[tuple[bytes, bytes]]:
        """Codec and bytes of each coded image."""
        for meta in self._find((0, len(self.data)), b"meta"):
            codecs: dict[int, bytes] = {}
            for start, end in self._find(meta, b"iinf"):
                children = start + (6 if self.data[start : start + 1] == b"\0" else 8)  # after version, flags and a count
                for entry, _ in self._find((children, end), b"infe"):
                    width = 2 if self._number(entry, 1) < 3 else 4
                    codecs[self._number(entry + 4, width)] = self.data[entry + 6 + width : entry + 10 + width]
            inside = next((start for start, _ in self._find(meta, b"idat")), 0)
            for start, _ in self._find(meta, b"iloc"):
                for item, method, extents in self._places(start):
                    base = inside if method == 1 else 0
                    if codecs.get(item) in (_AV1, _HEVC):
                        yield codecs[item], b"".join(self._read(base + at, size) for at, size in extents)

    def _places(self, at: int) -> Iterator[tuple[int, int, list[Span]]]:
        """Number, construction method, and offsets and lengths of each item of an ``iloc`` box."""
        version, sizes = self._number(at, 1), self._number(at + 4, 2)
        offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
        wide = 4 if version == 2 else 2
        count, at = self._number(at + 6, wide), at + 6 + wide
        for _ in range(count):
            item, at = self._number(at, wide), at + wide
            method, at = (self._number(at, 2) & 15, at + 2) if version else (0, at)
            base, at = self._number(at + 2, base_size), at + 2 + base_size
            extents, at = self._number(at, 2), at + 2
            found = []
            for _ in range(extents):
                self._spend()
                at += index_size if version else 0
                length = self._number(at + offset_size, length_size)
                found.append((base + self._number(at, offset_size), length or len(self.data)))
                at += offset_size + length_size
            self._spend()
            yield item, method, found

    def _samples(self) -> Iterator[tuple[bytes, bytes]]:
        """The first sample of each track of an AVIF sequence."""
        for table in self._find((0, len(self.data)), b"moov", b"trak", b"mdia", b"minf", b"stbl"):
            chunks = [(at, 4) for at, _ in self._find(table, b"stco")] + [(at, 8) for at, _ in self._find(table, b"co64")]
            starts = [self._number(at + 8, width) for at, width in chunks]
            sizes = [self._number(at + 4, 4) or self._number(at + 12, 4) for at, _ in self._find(table, b"stsz")]
            codecs = [self.data[at + 12 : at + 16] for at, _ in self._find(table, b"stsd")]
            if starts and sizes and codecs == [_AV1]:
                yield _AV1, self._read(starts[0], sizes[0])

    def _measure_av1(self, item: bytes) -> tuple[int, int]:
        """Pixels of the largest frame that the sequence headers allow, and the number of frames."""
        at, largest, frames = 0, 0, 0
        while at < len(item):
            self._spend()
            kind, has_extension, has_size = item[at] >> 3 & 15, item[at] >> 2 & 1, item[at] >> 1 & 1
            at += 1 + has_extension
            size, at = _read_leb128(item, at) if has_size else (len(item) - at, at)
            if kind == _SEQUENCE_HEADER:
                largest = max(largest, _frame_size(item[at : at + size]))
            frames += kind in (_FRAME_HEADER, _FRAME)
            at += size
        return largest, frames

    def _count_hevc(self, item: bytes) -> int:
        """Pictures, by the bit that marks each one's first slice; lengths are of four bytes, as all writers have them."""
        at, pictures = 0, 0
        while at + 6 < len(item):
            self._spend()
            size, kind = int.from_bytes(item[at : at + 4], "big"), item[at + 4] >> 1 & 63
            pictures += kind <= _LAST_SLICE and item[at + 6] >> 7
            at += 4 + size
        return pictures


def _read_leb128(data: bytes, at: int) -> tuple[int, int]:
    """A number of up to 8 bytes of 7 bits, and the place after it."""
    value = 0
    for place in range(8):
        byte = data[at + place] if at + place < len(data) else 0
        value |= (byte & 127) << 7 * place
        if not byte & 128:
            return value, at + place + 1
    return value, at + 8


class _Bits:
    """Reads bits, the highest first; zeros after the end."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def read(self, count: int) -> int:
        self._left -= count
        return (self._value >> self._left if self._left >= 0 else 0) & ((1 << count) - 1)

    def skip_uvlc(self) -> None:
        """AV1's numbers with as many zeros before them as they have bits."""
        zeros = 0
        while self._left > 0 and not self.read(1):
            zeros += 1
        self.read(min(zeros, 32))


def _frame_size(header: bytes) -> int:
    """Pixels of the largest frame, of an AV1 sequence header (section 5.5 of its specification)."""
    bits = _Bits(header[:256])
    bits.read(4)
    if bits.read(1):  # reduced_still_picture_header
        bits.read(5)
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
    return (bits.read(width_bits) + 1) * (bits.read(height_bits) + 1)


def _skip_operating_points(bits: _Bits) -> None:
    delay_bits = 0
    if bits.read(1):  # timing_info_present_flag
        bits.read(64)
        if bits.read(1):
            bits.skip_uvlc()
        if bits.read(1):  # decoder_model_info_present_flag
            delay_bits = bits.read(5) + 1
            bits.read(42)
    has_display_delay = bits.read(1)
    for _ in range(bits.read(5) + 1):
        bits.read(12)
        if bits.read(5) > 7:
            bits.read(1)
        if delay_bits and bits.read(1):
            bits.read(2 * delay_bits + 1)
        if has_display_delay and bits.read(1):
            bits.read(4)
