"""What decoding an image may take at most, where its number of pixels does not tell."""

from __future__ import annotations

import re

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from dhvt.data.containers import TooManyPartsError, measure_frames
from dhvt.errors import ImageError

_SCANS_OF_LARGEST = 15
"""Accepted scans of a JPEG of the largest accepted size; a progressive one has about 10. Smaller ones may have more."""

_JPEG_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")  # without restarts, which are inside a scan, and stuffed zeros

_MAX_TIFF_PARTS = 65_536
"""Strips or tiles."""

_TILE_WIDTH, _TILE_LENGTH = 322, 323  # of TIFF 6.0


class ImageTooLargeError(ImageError):
    """The header declares more pixels than allowed."""


def require_bounded(image: Image.Image, data: bytes, max_pixels: int) -> None:
    """Raises ImageTooLargeError where decoding would take far more time or memory than the number of pixels suggests."""
    if isinstance(image, JpegImageFile):
        scans = _count_scans(data, image.layers, "progressive" in image.info)
        if scans * image.width * image.height > _SCANS_OF_LARGEST * max_pixels:
            raise ImageTooLargeError(f"the JPEG has {image.width}x{image.height} pixels in {scans} scans, which is too much")
    elif image.format in ("AVIF", "HEIF"):
        _require_bounded_frames(image, data, max_pixels)
    elif isinstance(image, TiffImageFile):
        tile = int(image.tag_v2.get(_TILE_WIDTH, 0)) * int(image.tag_v2.get(_TILE_LENGTH, 0))
        if tile > max_pixels or len(image.tile) > _MAX_TIFF_PARTS:
            raise ImageTooLargeError(
                f"the TIFF has {len(image.tile):,} strips or tiles of up to {tile:,} pixels; at most {_MAX_TIFF_PARTS:,} of "
                f"{max_pixels:,} are accepted"
            )


def _require_bounded_frames(image: Image.Image, data: bytes, max_pixels: int) -> None:
    """As :func:`require_bounded`, of AVIF and HEIC, which may have larger and more frames than they declare."""
    try:
        frames = measure_frames(data)
    except TooManyPartsError as error:
        raise ImageTooLargeError(f"decoding the {image.format} would take too much: {error}") from error
    work = max(frames.pixels, frames.pictures * image.width * image.height)
    if frames.largest > max_pixels or work > _SCANS_OF_LARGEST * max_pixels:
        raise ImageTooLargeError(
            f"the {image.format} has frames of up to {frames.largest:,} pixels, of {work:,} together; at most {max_pixels:,} "
            f"and {_SCANS_OF_LARGEST * max_pixels:,} are accepted"
        )


def _count_scans(data: bytes, components: int, is_progressive: bool) -> int:
    """How many times libjpeg processes all pixels of a JPEG; once unless it is progressive or stored in planes."""
    position, scans = 2, 0
    while (marker := _JPEG_MARKER.search(data, position)) is not None:
        position = marker.end()
        if marker[1] == b"\xd9":  # the end; what follows, as a phone's video, is not read
            break
        if marker[1] in b"\x01\xd8":  # without a length
            continue
        if marker[1] == b"\xda":
            scans += 1
            if not is_progressive and data[position + 2 : position + 3] >= bytes([components]):
                break
        position += int.from_bytes(data[position : position + 2], "big")
    return scans
