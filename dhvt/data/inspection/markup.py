"""HTML that the pages of ``dhvt check`` and of a report share: text and embedded images."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from html import escape

from PIL import Image

from dhvt.data.text import printable
from dhvt.errors import ImageError

THUMBNAIL = 112
"""Largest side of a thumbnail, in pixels."""


def text(value: str) -> str:
    """A name of a file or a class, which may hold anything, as text of a page."""
    return escape(printable(value))


def embed(data: bytes, kind: str) -> str:
    """The address of an image that lies in the page itself; ``kind`` is ``jpeg`` or ``png``."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def thumbnail(decode: Callable[[], Image.Image]) -> str:
    """The element of a small copy of the image that ``decode`` returns, or of a remark where it raises an ImageError."""
    try:
        small = decode()
    except ImageError:  # it was removed since
        return "<img alt='cannot be read'>"
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return f"<img alt='' src='{embed(buffer.getvalue(), 'jpeg')}'>"
