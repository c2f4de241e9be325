"""From an encoded image file to RGB pixels, within limits."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from dhvt.data.bounds import ImageTooLargeError, require_bounded
from dhvt.data.formats import FORMATS, HEIC_INSTALL, describe_formats, name_of_brand
from dhvt.data.levels import FULL_INTEGER, ValueRange, WhiteLevels, measure
from dhvt.errors import ImageError

DEFAULT_MAX_PIXELS = 64_000_000
"""Larger images are refused before their pixels are read; those of a 64-megapixel camera pass."""


WHITE = WhiteLevels()
"""As models that recorded none: 65535 of 16 bits, 255 of floats."""

REDUCING_GAP = 2.0
"""Pillow shrinks by whole factors down to this many times the target, then filters properly."""

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


class Decoded(NamedTuple):
    """An upright image in the mode of its file.

    Args:
        has_deep_colour: whether its colours had 16 bits, of which the upper 8 were read.
    """

    image: Image.Image
    has_deep_colour: bool

    def values(self) -> ValueRange | None:
        """The range of values that need a white level; None where the file has 8 bits."""
        if self.has_deep_colour:
            return ValueRange("colour", 0, float(np.asarray(self.image.convert("RGB")).max()) * 256 + 255)
        return measure(np.asarray(self.image)) if _is_deep(self.image) else None

    def to_rgb(self, white: WhiteLevels = WHITE) -> Image.Image:
        """The image in RGB, on white where it is transparent.

        Raises:
            ImageError: its values do not fit the white level.
        """
        if self.has_deep_colour and white.integers not in (None, FULL_INTEGER):
            raise ImageError(str(white.refusal(ValueRange("colour", 0, FULL_INTEGER))))
        return _to_rgb(self.image, white)


def decode_rgb(
    data: bytes,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    at_least: tuple[int, int] | None = None,
    white: WhiteLevels = WHITE,
) -> Image.Image:
    """Decodes an image, upright, as RGB.

    The EXIF orientation is applied, of HEIC and AVIF the container's; an animation gives its first frame; transparency
    becomes white; the 10 and 12 bits that HEIC and AVIF may have are scaled to 8 by their decoders; grey of more bits and of
    floats is scaled by ``white``; CMYK, palette and the rest are converted by Pillow.

    Args:
        data: the encoded file.
        max_pixels: width times height that is still accepted.
        at_least: the ``(height, width)`` that is needed; a JPEG is then decoded at the smallest of the scales
            1, 1/2, 1/4 and 1/8 that has twice as much, which is several times faster.
        white: the values that are white.

    Raises:
        UnsupportedFormatError: no known format.
        ImageTooLargeError: more than ``max_pixels``.
        ImageError: empty, truncated or damaged, or of values that do not fit ``white``.
    """
    with _image_errors(data):
        return _decode(data, max_pixels, at_least).to_rgb(white)


def decode(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, at_least: tuple[int, int] | None = None) -> Decoded:
    """Decodes an image, upright, without scaling its values; see :func:`decode_rgb`."""
    with _image_errors(data):
        return _decode(data, max_pixels, at_least)


def _decode(data: bytes, max_pixels: int, at_least: tuple[int, int] | None) -> Decoded:
    if not data:
        raise ImageError("the image is empty (0 bytes)")
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = image.size
    if width * height > max_pixels:
        raise ImageTooLargeError(f"the image has {width}x{height} pixels; at most {max_pixels:,} are accepted")
    require_bounded(image, data, max_pixels)
    if at_least is not None and isinstance(image, JpegImageFile):
        side = round(max(at_least) * REDUCING_GAP)
        image.draft(None, (side, side))
    has_deep_colour = _has_deep_colour(image)
    return Decoded(_turn_upright(image), has_deep_colour)


@contextmanager
def _image_errors(data: bytes) -> Iterator[None]:
    """Makes an :class:`ImageError` of whatever a decoder raises."""
    try:
        yield
    except (ImageError, MemoryError):  # memory is short for reasons of its own: nothing is said of the image
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


def to_upright_rgb(image: Image.Image, white: WhiteLevels = WHITE) -> Image.Image:
    """The image in RGB, turned by its EXIF orientation, on white where it is transparent.

    Raises:
        ImageError: the file that it was opened from is damaged, or its values do not fit ``white``.
    """
    with _image_errors(b""):
        return _to_rgb(_turn_upright(image), white)


def _turn_upright(image: Image.Image) -> Image.Image:
    image.load()  # PNG may have its EXIF after the pixels
    upright = _UPRIGHT.get(_read_exif(image).get(ExifTags.Base.Orientation, 1))
    return image if upright is None else image.transpose(upright)


def _read_exif(image: Image.Image) -> Image.Exif:
    if image.format not in ("AVIF", "HEIF"):
        return image.getexif()
    # The container's orientation counts alone. Pillow's plugin has put AVIF's into the EXIF, HEIC's decoder has applied its;
    # getexif would turn by the XMP block where the EXIF has none.
    exif = Image.Exif()
    exif.load(image.info.get("exif") or b"")
    return exif


def _is_deep(image: Image.Image) -> bool:
    """Whether the values are grey of more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _has_deep_colour(image: ImageFile.ImageFile) -> bool:
    """Whether Pillow is about to drop the lower 8 of each colour's 16 bits, as its name of the stored layout tells."""
    return image.mode in ("RGB", "RGBA", "LA", "CMYK") and any(";16" in str(tile.args) for tile in image.tile)


def _to_rgb(image: Image.Image, white: WhiteLevels) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        image.load()
        return image
    if _is_deep(image):
        return Image.fromarray(white.scale(np.asarray(image))).convert("RGB")
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
