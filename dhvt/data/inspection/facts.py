"""What is known of one image after it was read and decoded once."""

from __future__ import annotations

import hashlib
import io
from typing import NamedTuple

from PIL import ExifTags, Image

from dhvt.data.decode import decode_rgb
from dhvt.data.formats import FORMATS
from dhvt.data.inspection.perceptual import NEEDED_SIZE, Appearance, describe_appearance
from dhvt.errors import ImageError

_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_BITS_PER_SAMPLE = 258  # of TIFF 6.0
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
    """

    error: str | None = None
    content: int = 0
    width: int = 0
    height: int = 0
    format: str = ""
    mode: str = ""
    is_animated: bool = False
    appearance: Appearance = Appearance(0, b"", True)


def gather_facts(data: bytes) -> ImageFacts:
    """Decodes an image as training does; an unreadable one gives its error."""
    try:
        appearance = describe_appearance(decode_rgb(data, at_least=NEEDED_SIZE))
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
            mode=_describe_mode(image, data),
            is_animated=bool(getattr(image, "is_animated", False)),
            appearance=appearance,
        )


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises many kinds for odd blocks; the decoder has accepted the image
        return 1


def _describe_mode(image: Image.Image, data: bytes) -> str:
    words = _MODE_WORDS.get(image.mode, image.mode)
    if image.mode.startswith("I;16"):
        return "16-bit grey"
    if image.mode == "P" and "transparency" in image.info:
        return "palette with transparency"
    return f"16-bit {words}" if _has_16_bits(image, data) else words


def _has_16_bits(image: Image.Image, data: bytes) -> bool:
    """Whether a colour image has 16 bits per channel, of which Pillow gives 8."""
    if image.format == "PNG":
        return image.mode != "P" and data[24:25] == b"\x10"  # the header's depth, PNG 11.2.1
    tags = getattr(image, "tag_v2", None)
    return tags is not None and image.mode not in ("I", "F") and 16 in tuple(tags.get(_BITS_PER_SAMPLE, ()))
