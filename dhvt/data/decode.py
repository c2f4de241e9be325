"""From an encoded image file to RGB pixels, within limits."""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from dhvt.data.formats import FORMATS, HEIC_INSTALL, describe_formats, name_of_brand
from dhvt.errors import ImageError

DEFAULT_MAX_PIXELS = 64_000_000
"""Larger images are refused before their pixels are read; those of a 64-megapixel camera pass."""


REDUCING_GAP = 2.0
"""Pillow shrinks by whole factors down to this many times the target, then filters properly."""

_SCANS_OF_LARGEST = 15
"""Accepted scans of a JPEG of the largest accepted size; a progressive one has about 10. Smaller ones may have more."""


_JPEG_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")  # without restarts, which are inside a scan, and stuffed zeros


_MAX_TIFF_PARTS = 65_536
"""Strips or tiles."""


_TILE_WIDTH, _TILE_LENGTH = 322, 323  # of TIFF 6.0


_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation. Pillow's exif_transpose also writes the EXIF block again, and fails at a single odd tag."""


# Pillow warns of 90 megapixels and more; decode_rgb refuses by its own limit. A filter around each call, as by
# catch_warnings, is not safe in threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class UnsupportedFormatError(ImageError):
    """The bytes are in no format of :data:`dhvt.data.formats.FORMATS`."""


class ImageTooLargeError(ImageError):
    """The header declares more pixels than allowed."""


def decode_rgb(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, at_least: tuple[int, int] | None = None) -> Image.Image:
    """Decodes an image, upright, as RGB.

    The EXIF orientation is applied, of HEIC and AVIF the container's; an animation gives its first frame; transparency
    becomes white; the 10 and 12 bits that HEIC and AVIF may have are scaled to 8 by their decoders;
    16-bit grey is scaled to 8 bits; CMYK, palette and the rest are converted by Pillow.

    Args:
        data: the encoded file.
        max_pixels: width times height that is still accepted.
        at_least: the ``(height, width)`` that is needed; a JPEG is then decoded at the smallest of the scales
            1, 1/2, 1/4 and 1/8 that has twice as much, which is several times faster.

    Raises:
        UnsupportedFormatError: no known format.
        ImageTooLargeError: more than ``max_pixels``.
        ImageError: empty, truncated or damaged.
    """
    if not data:
        raise ImageError("the image is empty (0 bytes)")
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
        if width * height > max_pixels:
            raise ImageTooLargeError(f"the image has {width}x{height} pixels; at most {max_pixels:,} are accepted")
        _require_bounded(image, data, max_pixels)
        if at_least is not None and isinstance(image, JpegImageFile):
            side = round(max(at_least) * REDUCING_GAP)
            image.draft(None, (side, side))
        return _to_upright_rgb(image)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise _describe_unidentified(data) from error
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(f"the image has too many pixels: {error}") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others.
        raise ImageError(f"the image is damaged or truncated ({type(error).__name__}: {error})") from error


def _describe_unidentified(data: bytes) -> ImageError:
    """The error for bytes that no decoder takes."""
    kind = name_of_brand(data)
    if kind == "HEIC" and "HEIF" not in FORMATS:
        return UnsupportedFormatError(f"a HEIC image, which needs pillow-heif here: {HEIC_INSTALL}; or send another format")
    if kind == "AVIF" and "AVIF" not in FORMATS:
        return UnsupportedFormatError("an AVIF image, without which Pillow was built here; install Pillow from PyPI")
    if kind is not None:
        return ImageError(f"the {kind} image is damaged or truncated, or of a kind that its decoder does not know")
    return UnsupportedFormatError(f"not an image in a known format; send one of {describe_formats()}")


def to_upright_rgb(image: Image.Image) -> Image.Image:
    """The image in RGB, turned by its EXIF orientation, on white where it is transparent.

    Raises:
        ImageError: the file that it was opened from is damaged.
    """
    try:
        return _to_upright_rgb(image)
    except Exception as error:  # as in decode_rgb
        raise ImageError(f"the image is damaged or truncated ({type(error).__name__}: {error})") from error


def _to_upright_rgb(image: Image.Image) -> Image.Image:
    image.load()  # PNG may have its EXIF after the pixels
    upright = _UPRIGHT.get(_read_exif(image).get(ExifTags.Base.Orientation, 1))
    return _to_rgb(image if upright is None else image.transpose(upright))


def _read_exif(image: Image.Image) -> Image.Exif:
    if image.format not in ("AVIF", "HEIF"):
        return image.getexif()
    # The container's orientation counts alone. Pillow's plugin has put AVIF's into the EXIF, HEIC's decoder has applied its;
    # getexif would turn by the XMP block where the EXIF has none.
    exif = Image.Exif()
    exif.load(image.info.get("exif") or b"")
    return exif


def _require_bounded(image: Image.Image, data: bytes, max_pixels: int) -> None:
    """Raises ImageTooLargeError where decoding would take far more time or memory than the number of pixels suggests."""
    if isinstance(image, JpegImageFile):
        scans = _count_scans(data, image.layers, "progressive" in image.info)
        if scans * image.width * image.height > _SCANS_OF_LARGEST * max_pixels:
            raise ImageTooLargeError(f"the JPEG has {image.width}x{image.height} pixels in {scans} scans, which is too much")
    elif isinstance(image, TiffImageFile):
        tile = int(image.tag_v2.get(_TILE_WIDTH, 0)) * int(image.tag_v2.get(_TILE_LENGTH, 0))
        if tile > max_pixels or len(image.tile) > _MAX_TIFF_PARTS:
            raise ImageTooLargeError(
                f"the TIFF has {len(image.tile):,} strips or tiles of up to {tile:,} pixels; at most {_MAX_TIFF_PARTS:,} of "
                f"{max_pixels:,} are accepted"
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


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        image.load()
        return image
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "I":
        # 16-bit files that Pillow opens with 32 bits; more is clipped.
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        return Image.fromarray(np.nan_to_num(np.asarray(image)).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(canvas, image).convert("RGB")
    return image.convert("RGB")


def read_file(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        ImageError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror}") from error
