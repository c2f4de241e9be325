"""Request body to image bytes, under limits. Nothing here opens a URL or trusts a declared length or type."""

from __future__ import annotations

from dataclasses import dataclass, field
from email.message import Message
from email.utils import collapse_rfc2231_value

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser
from starlette.requests import ClientDisconnect, Request

from serving.errors import BadRequest, InvalidImage, TooLarge, UnsupportedMedia

FIELD = "image"
_FORM_BYTES = 10_000  # what the multipart frame may add to the file
_MAX_PARTS = 16
_HINT = "send one file as multipart/form-data, curl -F image=@cat.jpg …, or the file itself with Content-Type: image/jpeg"


@dataclass(frozen=True)
class Upload:
    """What a request carried: the encoded picture, and the form's text fields by name."""

    image: bytes
    fields: dict[str, str] = field(default_factory=dict)


async def read_upload(request: Request, max_bytes: int) -> Upload:
    """The one uploaded file of a request.

    Args:
        request: ``multipart/form-data`` with the file field ``image``, or a raw ``image/*`` body.
        max_bytes: largest file.

    Raises:
        BadRequest, InvalidImage, TooLarge, UnsupportedMedia: see :mod:`serving.errors`.
    """
    content_type, options = _parse_header(request.headers.get("content-type", ""))
    if content_type == "multipart/form-data":
        body = await _read_body(request, max_bytes + _FORM_BYTES, max_bytes)
        upload = _parse_form(body, options.get("boundary", ""))
        if len(upload.image) > max_bytes:
            raise _too_large(max_bytes)
    elif content_type.startswith("image/") or content_type == "application/octet-stream":
        upload = Upload(await _read_body(request, max_bytes, max_bytes))
    else:
        raise UnsupportedMedia(f"Content-Type is {content_type or 'missing'!r}; {_HINT}")
    if not upload.image:
        raise InvalidImage("the image is empty (0 bytes)")
    return upload


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"the upload is larger than {max_bytes:,} bytes")


async def _read_body(request: Request, limit: int, max_bytes: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:18]) > limit:
        raise _too_large(max_bytes)
    chunks: list[bytes] = []
    received = 0
    try:
        async for chunk in request.stream():
            received += len(chunk)
            if received > limit:
                raise _too_large(max_bytes)
            chunks.append(chunk)
    except ClientDisconnect as error:
        raise BadRequest("the client closed the connection before the body was complete") from error
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _parse_header(value: str) -> tuple[str, dict[str, str]]:
    """``text/plain; a=b`` as ``("text/plain", {"a": "b"})``."""
    message = Message()
    message["content-type"] = value
    parameters = message.get_params(failobj=[], header="content-type")[1:]
    # A value is a tuple where RFC 2231 encodes it, as browsers do with filename*=utf-8''…
    options = {name.lower(): collapse_rfc2231_value(text) for name, text in parameters}
    return value.split(";", maxsplit=1)[0].strip().lower(), options


@dataclass
class _Part:
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)


class _Parts:
    """Collects what the multipart parser reports."""

    def __init__(self, boundary: str) -> None:
        self.parts: list[_Part] = []
        self.complete = False
        self._name, self._value = b"", b""
        self._parser = MultipartParser(
            boundary.encode("latin-1"),
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_part_data": lambda data, start, end: self.parts[-1].chunks.append(data[start:end]),
                "on_end": self._on_end,
            },
        )

    def _on_part_begin(self) -> None:
        if len(self.parts) == _MAX_PARTS:
            raise ValueError(f"more than {_MAX_PARTS} fields")
        self.parts.append(_Part())

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self.parts[-1].headers[self._name.decode("latin-1").lower()] = self._value.decode("utf-8", "replace")
        self._name, self._value = b"", b""

    def _on_end(self) -> None:
        self.complete = True

    def parse(self, body: bytes) -> list[_Part]:
        self._parser.write(body)
        self._parser.finalize()
        return self.parts


def _parse_form(body: bytes, boundary: str) -> Upload:
    if not boundary:
        raise BadRequest(f"the Content-Type names no multipart boundary; {_HINT}")
    try:
        collector = _Parts(boundary)
        parts = collector.parse(body)
    except (MultipartParseError, ValueError) as error:
        raise BadRequest(f"the multipart body is malformed: {error}") from error
    if not collector.complete:
        raise BadRequest("the multipart body ends before its last boundary; was the upload cut off?")
    images: list[bytes] = []
    fields: dict[str, str] = {}
    for part in parts:
        _, options = _parse_header(part.headers.get("content-disposition", ""))
        name, data = options.get("name", ""), b"".join(part.chunks)
        if name == FIELD and "filename" not in options:
            raise BadRequest(f"field {FIELD!r} holds text, not a file; did you forget the @ in curl -F image=@cat.jpg?")
        if name == FIELD:
            images.append(data)
        else:
            fields[name] = data[:1000].decode("utf-8", "replace")
    if len(images) != 1:
        found = f"{len(images)} fields {FIELD!r}" if images else f"no field {FIELD!r} (fields: {', '.join(fields) or 'none'})"
        raise BadRequest(f"the form has {found}; {_HINT}")
    return Upload(images[0], fields)
