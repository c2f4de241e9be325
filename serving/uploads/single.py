"""The one image of a request, under limits. Nothing here opens a URL or trusts a declared length or type."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field

from serving.errors import BadRequest, InvalidImage, TooLarge, UnsupportedMedia
from serving.uploads.json_body import JSON, max_json_bytes, parse_json_image
from serving.uploads.multipart import FIELD, FormParser, Part, media_type, parse_boundary

_FORM = "multipart/form-data"
_FORM_BYTES = 10_000  # that the multipart frame may add to the file
_MAX_PARTS = 16
_BYTES_AT_ONCE = 65_536  # parsed before other requests run; what looks like boundaries costs 1 ms for 3,000 bytes
_ONLY_FILE = re.compile(
    rb'content-disposition: *form-data; *name="image"; *filename="[^"\\\r\n]*"(?:\r\ncontent-type: *[^\r\n]*)?', re.IGNORECASE
)
_HINT = (
    "send one file as multipart/form-data, curl -F image=@cat.jpg …, the file itself with Content-Type: image/jpeg, or "
    '{"image": "<base64>"} with Content-Type: application/json'
)


@dataclass(frozen=True)
class Upload:
    """The encoded image of a request, and the other fields of its form or JSON body by name."""

    image: bytes
    fields: dict[str, str] = field(default_factory=dict)


class UploadReader:
    """Takes the one image out of a body.

    Args:
        content_type: of the request: ``multipart/form-data``, whose file field is ``image``, that of an image, where the
            body is the file, or ``application/json``, with the image as base64.
        max_bytes: largest file.

    Attributes:
        max_body_bytes: largest body.
        too_large: what an error says of a larger one.

    Raises:
        UnsupportedMedia: for another content type.
    """

    def __init__(self, content_type: str, max_bytes: int) -> None:
        kind = media_type(content_type)
        self._is_form, self._is_json = kind == _FORM, kind == JSON
        is_file = kind.startswith("image/") or kind == "application/octet-stream"
        if not (is_file or self._is_form or self._is_json):
            raise UnsupportedMedia(f"Content-Type is {kind or 'missing'!r}; {_HINT}")
        self._content_type, self._max_bytes = content_type, max_bytes
        self.max_body_bytes = max_json_bytes(max_bytes) if self._is_json else max_bytes + (_FORM_BYTES if self._is_form else 0)
        self.too_large = f"the upload is larger than {max_bytes:,} bytes"

    async def parse(self, body: bytes) -> Upload:
        """Returns the file, and the other fields of a form or JSON body.

        Raises:
            BadRequest, InvalidImage, TooLarge: see :mod:`serving.errors`.
        """
        if self._is_json:
            return Upload(*parse_json_image(body, self._max_bytes))
        upload = await parse_form(body, parse_boundary(self._content_type)) if self._is_form else Upload(body)
        if len(upload.image) > self._max_bytes:
            raise TooLarge(self.too_large)
        if not upload.image:
            raise InvalidImage("the image is empty (0 bytes)")
        return upload


async def parse_form(body: bytes, boundary: str) -> Upload:
    """Returns the form's one file ``image`` and its text fields.

    Raises:
        BadRequest: there is no such file or more than one, or the body is not a form.
    """
    return _cut_only_part(body, boundary.encode("latin-1")) or await _parse_fields(body, boundary)


def _cut_only_part(body: bytes, boundary: bytes) -> Upload | None:
    """The body of ``curl -F image=@cat.jpg`` and of most clients, cut out without a parser; None for any other."""
    start = b"--" + boundary + b"\r\n"
    head_end = body.find(b"\r\n\r\n", 0, 1000)
    if not body.startswith(start) or not _ONLY_FILE.fullmatch(body, len(start), max(head_end, 0)):
        return None
    tail = body.find(b"\r\n--" + boundary, head_end + 4)
    if tail < 0 or body[tail + 4 + len(boundary) :] not in (b"--\r\n", b"--"):
        return None
    return Upload(body[head_end + 4 : tail])


async def _parse_fields(body: bytes, boundary: str) -> Upload:
    parser = FormParser(boundary, max_part_bytes=len(body), max_parts=_MAX_PARTS)
    images: list[bytes] = []
    fields: dict[str, str] = {}
    parts: list[Part] = []
    for start in range(0, len(body), _BYTES_AT_ONCE):
        parts += parser.feed(body[start : start + _BYTES_AT_ONCE])
        await asyncio.sleep(0)
    parser.finish()
    for part in parts:
        if part.is_file:
            images.append(part.data)
        else:
            fields[part.name] = part.data[:1000].decode("utf-8", "replace")
    if len(images) != 1:
        found = f"{len(images)} fields {FIELD!r}" if images else f"no field {FIELD!r} (fields: {', '.join(fields) or 'none'})"
        raise BadRequest(f"the form has {found}; {_HINT}")
    return Upload(images[0], fields)
