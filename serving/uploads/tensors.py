"""Images of a request in the Open Inference Protocol: JSON that describes a tensor, and binary data behind it."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.errors import BadRequest
from serving.settings import Settings
from serving.uploads.image import image_too_large
from serving.uploads.json_body import decode_base64

HEADER_LENGTH = "Inference-Header-Content-Length"
OUTPUTS = ("label", "score", "logits")
_MAX_OBJECTS = 100  # of a request's JSON: its inputs, outputs and parameters
_MAX_DIMENSIONS = 4
_MAX_LENGTH_DIGITS = 12
_MORE_VALUES = 10_000  # commas and brackets that the JSON may have beside those of its images
_MAX_NUMBERS = 200_000  # of several images in JSON: no other request is looked at while a tenth of a second reads them

Image = bytes | NDArray[np.uint8]
"""An encoded image, or one that is resized already, ``(H, W, 3)``."""


@dataclass(frozen=True)
class InferRequest:
    """What a client asks ``infer`` for.

    Args:
        id: of the request, sent back with the response; None where there is none.
        images: of its one input.
        outputs: for each that is wanted, whether it is sent as binary data.
        fields: the parameters that :func:`serving.http.request.parse_options` reads.
    """

    id: str | None
    images: Sequence[Image]
    outputs: Mapping[str, bool]
    fields: dict[str, str]


def read_infer_request(body: bytes, json_length: bytes | None, size: tuple[int, int], settings: Settings) -> InferRequest:
    """Returns what a body asks for.

    Args:
        body: JSON, and behind it the binary data of its inputs.
        json_length: the header :data:`HEADER_LENGTH`; None where all is JSON.
        size: height and width of images that are resized already.
        settings: of this process.

    Raises:
        BadRequest, InvalidImage, TooLarge: see :mod:`serving.errors`.
    """
    head, binary = _split_body(body, json_length)
    one = prod(size) * 3
    numbers = max(one, min(settings.max_batch_size * one, _MAX_NUMBERS))
    values = _parse_head(head, numbers + _MORE_VALUES)
    parameters = _mapping(values.get("parameters"), "parameters")
    entry, data = _find_input(values.get("inputs"), binary)
    images = _read_images(entry, data, size, settings)
    fields = {"top_k": json.dumps(parameters["top_k"])} if "top_k" in parameters else {}
    identity = values.get("id")
    if identity is not None and not isinstance(identity, str):
        raise BadRequest("id must be a string")
    outputs = _read_outputs(values.get("outputs"), parameters.get("binary_data_output") is True)
    return InferRequest(identity, images, outputs, fields)


def _split_body(body: bytes, json_length: bytes | None) -> tuple[bytes, bytes]:
    if json_length is None:
        return body, b""
    if not json_length.isdigit() or len(json_length) > _MAX_LENGTH_DIGITS or int(json_length) > len(body):
        raise BadRequest(f"{HEADER_LENGTH} is {json_length[:100]!r}; it must be the length of the JSON, at most {len(body)}")
    return body[: int(json_length)], body[int(json_length) :]


def _parse_head(head: bytes, max_values: int) -> dict[str, Any]:
    # All is counted before it is Python objects, which take many times their bytes.
    if head.count(b"{") > _MAX_OBJECTS:
        raise BadRequest(f"the JSON has more than {_MAX_OBJECTS} objects")
    if head.count(b",") > max_values or head.count(b"[") > max_values:
        raise BadRequest(
            f"the JSON has more than {max_values:,} values; send fewer images, or pixels as binary data (binary_data_size)"
        )
    try:
        values = json.loads(head)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the request is not JSON ({error}); with binary data, {HEADER_LENGTH} tells its length") from error
    return _mapping(values, "the request")


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRequest(f"{name} must be a JSON object")
    return value


def _find_input(inputs: Any, binary: bytes) -> tuple[dict[str, Any], Any]:
    """The request's one input, and its data: bytes, or what JSON holds."""
    if not isinstance(inputs, list) or len(inputs) != 1:
        raise BadRequest("inputs must be a list of one tensor: 'image' (BYTES) or 'images' (UINT8)")
    entry = _mapping(inputs[0], "an input")
    size = _mapping(entry.get("parameters"), "an input's parameters").get("binary_data_size")
    if size is None:
        if binary:
            raise BadRequest(f"{len(binary):,} bytes follow the JSON, and no input has binary_data_size")
        return entry, entry.get("data")
    if size != len(binary):
        raise BadRequest(f"binary_data_size is {str(size)[:30]}, and {len(binary):,} bytes follow the JSON")
    return entry, binary


def _read_images(entry: dict[str, Any], data: Any, size: tuple[int, int], settings: Settings) -> Sequence[Image]:
    """The images of the input tensor."""
    kind = (entry.get("name"), entry.get("datatype"))
    if kind not in (("image", "BYTES"), ("images", "UINT8")):
        raise BadRequest(f"the input is {str(kind)[:100]}; it must be ('image', 'BYTES') or ('images', 'UINT8')")
    shape = entry.get("shape")
    if (
        not isinstance(shape, list)
        or not 1 <= len(shape) <= _MAX_DIMENSIONS
        or not all(type(length) is int and 0 < length < 2**31 for length in shape)
    ):
        raise BadRequest(f"shape is {str(shape)[:100]}; it must be a list of up to {_MAX_DIMENSIONS} whole numbers above 0")
    if shape[0] > settings.max_batch_size:
        limit = settings.max_batch_size
        raise BadRequest(f"the input has {shape[0]:,} images; at most {limit} are taken at once, send several requests")
    if entry["name"] == "images":
        return list(_read_pixels(data, shape, (*size, 3)))
    if shape[1:] not in ([], [1]):
        raise BadRequest(f"shape is {shape}; that of 'image' must be [N] or [N, 1]")
    return _read_encoded(data, shape[0], settings.max_upload_bytes)


def _read_encoded(data: Any, count: int, max_bytes: int) -> list[bytes]:
    """Encoded images: each with its length before it, or base64 in JSON."""
    if isinstance(data, bytes):
        images = _split(data, count)
    elif isinstance(data, list):
        if len(data) != count:  # before any is decoded
            raise _wrong_count(count, len(data))
        flat = [value[0] if isinstance(value, list) and len(value) == 1 else value for value in data]
        images = [decode_base64(value, max_bytes) for value in flat]
    else:
        raise BadRequest("the input has no data; send a list of base64, or binary data")
    if len(images) != count:
        raise _wrong_count(count, len(images))
    if max(map(len, images)) > max_bytes:
        raise image_too_large(max_bytes)
    return images


def _wrong_count(count: int, received: int | str) -> BadRequest:
    return BadRequest(f"the input's shape tells of {count} images, and its data has {received}")


def _split(data: bytes, count: int) -> list[bytes]:
    """The elements of binary data, at most ``count``."""
    images: list[bytes] = []
    start = 0
    while start < len(data):
        if len(images) == count:
            raise _wrong_count(count, "more")
        if start + 4 > len(data):
            raise BadRequest("the binary data ends within an element's length")
        (length,) = struct.unpack_from("<I", data, start)
        start += 4 + length
        if start > len(data):
            raise BadRequest(f"an element of the binary data has {length:,} bytes by its length, and fewer follow")
        images.append(data[start - length : start])
    return images


def _read_pixels(data: Any, shape: list[int], one: tuple[int, ...]) -> NDArray[np.uint8]:
    """Decoded images, ``(N, H, W, 3)``."""
    if tuple(shape[1:]) != one:
        raise BadRequest(f"shape is {shape}; that of 'images' must be {['N', *one]}, resized as training did")
    if isinstance(data, bytes):
        pixels = np.frombuffer(data, np.uint8)
        _require_size(shape, pixels.size)
        return pixels.reshape(shape).copy()
    try:
        # As any other type, numpy would give each value the room of the longest.
        values = np.array(data if isinstance(data, list) else [], dtype=object).ravel().tolist()
    except ValueError as error:
        raise BadRequest(f"data is no tensor: {error}") from error
    _require_size(shape, len(values))
    if set(map(type, values)) != {int} or min(values) < 0 or max(values) > 255:
        raise BadRequest("data must be whole numbers from 0 to 255, in lists of equal lengths")
    return np.array(values, np.uint8).reshape(shape)


def _require_size(shape: list[int], received: int) -> None:
    if received != prod(shape):
        raise BadRequest(f"shape is {shape}, of {prod(shape):,} numbers, and data has {received:,}")


def _read_outputs(outputs: Any, binary_by_default: bool) -> dict[str, bool]:
    """The outputs that are asked for, each with whether it is sent as binary data."""
    if outputs in (None, []):
        return dict.fromkeys(("label", "score"), binary_by_default)
    if not isinstance(outputs, list):
        raise BadRequest("outputs must be a list")
    wanted = {}
    for value in outputs:
        entry = _mapping(value, "an output")
        name = entry.get("name")
        if name not in OUTPUTS:
            raise BadRequest(f"there is no output {str(name)[:100]!r}; there are {', '.join(OUTPUTS)}")
        asked = _mapping(entry.get("parameters"), "an output's parameters").get("binary_data", binary_by_default)
        wanted[name] = asked is True
    return wanted
