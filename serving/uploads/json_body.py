"""Images in a JSON body, as base64. Nothing here opens a URL."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
from collections.abc import AsyncIterator
from typing import Any

from serving.errors import BadRequest, InvalidImage, RequestError, TooLarge
from serving.uploads.image import UploadedImage, image_too_large
from serving.uploads.multipart import FIELD

JSON = "application/json"
FIELDS = "images"
_TOP_K = "top_k"
_FRAME_BYTES = 10_000  # that the JSON around the images may have
_DATA_URL = re.compile(r"data:image/[\w.+-]{1,100};base64,", re.ASCII)
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:")


def max_json_bytes(max_image_bytes: int) -> int:
    """Returns the largest JSON body: base64 takes 4/3 of the image's bytes, and some encoders escape each ``/`` in it."""
    return max_image_bytes * 3 // 2 + _FRAME_BYTES


def parse_json_image(body: bytes, max_bytes: int) -> tuple[bytes, dict[str, str]]:
    """Returns the image of ``{"image": "<base64>", "top_k": 3}``, and the other fields.

    Raises:
        BadRequest, InvalidImage, TooLarge: see :mod:`serving.errors`.
    """
    values = _parse_object(body, FIELD, max_lists=0, max_commas=16)
    image = decode_base64(values.pop(FIELD), max_bytes)
    return image, _text_fields(values)


def parse_json_images(body: bytes, max_images: int, max_bytes: int) -> tuple[AsyncIterator[UploadedImage], dict[str, str]]:
    """Returns the images of ``{"images": ["<base64>", …], "top_k": 3}``, named by their position from 0, and the other fields.

    Raises:
        BadRequest: the body is not of this form. One image that cannot be decoded has an error in its place.
        TooLarge: there are more than ``max_images``.
    """
    values = _parse_object(body, FIELDS, max_lists=1, max_commas=2 * max_images + 16)
    images = values.pop(FIELDS)
    if not isinstance(images, list) or not images:
        raise BadRequest(f"{FIELDS!r} must be a list of at least one image as base64")
    if len(images) > max_images:
        raise TooLarge(f"the body has more than {max_images:,} images; send several")
    for position, value in enumerate(images):
        if not isinstance(value, str):
            raise BadRequest(f"image {position} is {type(value).__name__}; it must be a string of base64")
    return _decode_all(images, max_bytes), _text_fields(values)


def decode_base64(value: Any, max_bytes: int) -> bytes:
    """Returns the image that a string holds: base64 of RFC 4648, also after ``data:image/…;base64,``.

    Raises:
        BadRequest, InvalidImage, TooLarge: it holds none, or a larger one.
    """
    if not isinstance(value, str):
        raise BadRequest(f"an image is {type(value).__name__}; it must be a string of base64")
    prefix = _DATA_URL.match(value)
    if prefix is None and _URL.match(value):
        raise BadRequest("an image is a URL, which this server never fetches; send the image itself as base64")
    start = prefix.end() if prefix else 0
    length = len(value) - start
    if length > (max_bytes + 2) // 3 * 4:
        raise image_too_large(max_bytes)
    try:
        data = base64.b64decode(value[start:] if start else value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"an image is not base64 of RFC 4648, without line breaks ({error})") from error
    if len(data) > max_bytes:
        raise image_too_large(max_bytes)
    if not data:
        raise InvalidImage("the image is empty (0 bytes)")
    return data


def _parse_object(body: bytes, needed: str, *, max_lists: int, max_commas: int) -> dict[str, Any]:
    """The JSON object of a body.

    What it may hold is counted before it is parsed: as Python objects, many small values take fifty times their bytes.
    """
    form = f'{{"{needed}": {"[…]" if max_lists else "…"}, "{_TOP_K}": …}}'
    if body.count(b"{") > 1 or body.count(b"[") > max_lists or body.count(b",") > max_commas:
        raise BadRequest(f"the JSON body has more values than {form}")
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    if not isinstance(values, dict) or needed not in values:
        raise BadRequest(f"the JSON body has no {needed!r}; it must be {form}")
    unknown = sorted(values.keys() - {needed, _TOP_K})
    if unknown:
        raise BadRequest(f"the JSON body has the unknown field {unknown[0][:100]!r}; it must be {form}")
    return values


def _text_fields(values: dict[str, Any]) -> dict[str, str]:
    """The fields beside the images as a form would have them."""
    top_k = values.get(_TOP_K, 1)
    if isinstance(top_k, bool) or not isinstance(top_k, int):
        raise BadRequest(f"{_TOP_K} is {str(top_k)[:100]!r}; it must be a whole number of at least 1")
    return {name: str(value) for name, value in values.items()}


async def _decode_all(images: list[Any], max_bytes: int) -> AsyncIterator[UploadedImage]:
    for position, value in enumerate(images):
        images[position] = None  # as soon as it is decoded, its text is no longer needed
        data: bytes | RequestError
        try:
            data = decode_base64(value, max_bytes)
        except RequestError as error:
            data = error
        yield UploadedImage(str(position), data)
        await asyncio.sleep(0)
