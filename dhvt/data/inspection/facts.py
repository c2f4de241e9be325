"""What is known of one image after it was read and decoded once."""

from __future__ import annotations

import hashlib
import io
from typing import NamedTuple

from PIL import ExifTags, Image

from dhvt.data.decode import WHITE, Decoded, decode
from dhvt.data.formats import FORMATS
from dhvt.data.inspection.perceptual import NEEDED_SIZE, Appearance, describe_appearance
from dhvt.data.levels import ValueRange, find_white_levels
from dhvt.errors import DataError, ImageError

_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_MODE_WORDS = {
    "1": "black and white",
    "L": "grey",
    "LA": "grey with transparency",
    "P": "palette",
    "PA": "palette with transparency",
    "RGBA": "RGB with transparency",
    "RGBX": "RGB",
    "I": "32-bit grey",
    "F": "floating-point grey",
}


class ImageFacts(NamedTuple):
    """One image.

    Args:
        error: why it cannot be read; the other fields say nothing then.
        content: 64-bit hash of all of its bytes.
        width, height: in pixels, upright.
        mode: its colours in words, such as ``RGB`` or ``16-bit grey``.
        is_animated: only the first frame is used.
        values: their range, where the image has more than 8 bits.
    """

    error: str | None = None
    content: int = 0
    width: int = 0
    height: int = 0
    format: str = ""
    mode: str = ""
    is_animated: bool = False
    values: ValueRange | None = None
    appearance: Appearance = Appearance(0, b"", b"", True)


def gather_facts(data: bytes) -> ImageFacts:
    """Decodes an image as training does; an unreadable one gives its error."""
    try:
        decoded = decode(data, at_least=NEEDED_SIZE)
        appearance, values = describe_appearance(to_visible_rgb(decoded)), decoded.values()
    except ImageError as error:
        return ImageFacts(error=str(error))
    content = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:  # its header
        width, height = image.size
        if image.format not in ("AVIF", "HEIF") and _orientation(image) in _SIDEWAYS:
            width, height = height, width
        return ImageFacts(
            content=content,
            width=width,
            height=height,
            format="HEIC" if image.format == "HEIF" else image.format or "",
            mode=_describe_mode(image, decoded.has_deep_colour),
            is_animated=bool(getattr(image, "is_animated", False)),
            values=values,
            appearance=appearance,
        )


def to_visible_rgb(decoded: Decoded) -> Image.Image:
    """The image in RGB, with the white level that its own values suggest."""
    values = decoded.values()
    try:
        white = WHITE if values is None else find_white_levels([values])
        return decoded.to_rgb(white)
    except DataError:  # no level fits
        return decoded.to_rgb()


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises many kinds for odd blocks; the decoder has accepted the image
        return 1


def _describe_mode(image: Image.Image, has_deep_colour: bool) -> str:
    if image.mode.startswith("I;16"):
        return "16-bit grey"
    words = _MODE_WORDS.get(image.mode, image.mode)
    if image.mode == "P" and "transparency" in image.info:
        return "palette with transparency"
    return f"16-bit {words}" if has_deep_colour else words
