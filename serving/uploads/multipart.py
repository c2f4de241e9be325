"""multipart/form-data: a parser that gives each part of the body as soon as it is complete."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.message import Message
from email.utils import collapse_rfc2231_value
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError, MultipartParseError
from python_multipart.multipart import MultipartParser

from serving.errors import BadRequest

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FIELD = "image"
_PLAIN_BOUNDARY = re.compile(r"multipart/form-data; *boundary=([\w'()+,./:=?-]+)", re.ASCII)


_MAX_CONTENT_TYPE = 1000


def media_type(content_type: str) -> str:
    """Returns the Content-Type in lower case and without parameters."""
    return content_type.partition(";")[0].strip().lower()


def parse_boundary(content_type: str) -> str:
    """Returns the boundary that a ``multipart/form-data`` header names.

    Raises:
        BadRequest: it names none, or has too many characters.
    """
    if len(content_type) > _MAX_CONTENT_TYPE:  # the parser of headers takes time with the square of their length
        raise BadRequest(f"the Content-Type has more than {_MAX_CONTENT_TYPE} characters")
    plain = _PLAIN_BOUNDARY.fullmatch(content_type)
    boundary = plain[1] if plain else _parse_header(content_type).get("boundary", "")
    if not boundary or not boundary.isascii():
        raise BadRequest("the Content-Type names no multipart boundary; leave that header to your HTTP client")
    return boundary


def _parse_header(value: str) -> dict[str, str]:
    """The parameters of ``text/plain; a=b``, as ``{"a": "b"}``.

    Raises:
        BadRequest: they are malformed.
    """
    message = Message()
    message["content-type"] = value
    try:
        parameters = message.get_params(failobj=[], header="content-type")[1:]
        # A value is a tuple where RFC 2231 encodes it, as browsers do with filename*=utf-8''…
        return {name.lower(): collapse_rfc2231_value(text) for name, text in parameters}
    except (TypeError, ValueError) as error:  # unknown charsets, numbered and unnumbered continuations
        raise BadRequest(f"a header's parameters are malformed: {value[:200]!r}") from error


@dataclass(frozen=True)
class Part:
    """A field of a form. A file ``image`` has ``is_file``; ``is_cut`` where it was longer than allowed and was cut off."""

    name: str
    filename: str
    data: bytes
    is_file: bool
    is_cut: bool


class FormParser:
    """Splits a body into its parts.

    Args:
        boundary: of the Content-Type.
        max_part_bytes: bytes that are kept of one part.
        max_parts: parts that a form may have.

    Raises:
        BadRequest: the boundary is too long.
    """

    def __init__(self, boundary: str, *, max_part_bytes: int, max_parts: int) -> None:
        self.max_part_bytes, self.max_parts = max_part_bytes, max_parts
        self._parts: list[Part] = []
        self._begun = 0
        self._is_complete = False
        self._header_name, self._header_value = b"", b""
        self._headers: dict[str, str] = {}
        self._chunks: list[bytes] = []
        self._kept, self._is_cut = 0, False
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin,
            "on_part_data": self._add,
            "on_part_end": self._end,
            "on_header_field": self._add_header_name,
            "on_header_value": self._add_header_value,
            "on_header_end": self._end_header,
            "on_end": self._complete,
        }
        try:
            self._parser = MultipartParser(boundary.encode(), callbacks)
        except FormParserError as error:
            raise BadRequest(f"the multipart boundary cannot be used: {error}") from error

    def feed(self, chunk: bytes) -> list[Part]:
        """Returns the parts that end in this chunk.

        Raises:
            BadRequest: the body is not a form, has too many parts, or text where a file belongs.
        """
        try:
            self._parser.write(chunk)
        except (MultipartParseError, ValueError) as error:
            raise BadRequest(f"the multipart body is malformed: {error}") from error
        parts, self._parts = self._parts, []
        return parts

    def finish(self) -> None:
        """Checks that the body is complete; to be called at its end.

        Raises:
            BadRequest: it is not.
        """
        try:
            self._parser.finalize()
        except MultipartParseError as error:
            raise BadRequest(f"the multipart body is malformed: {error}") from error
        if not self._is_complete:
            raise BadRequest("the multipart body ends before its last boundary; was the upload cut off?")

    def _begin(self) -> None:
        self._begun += 1
        if self._begun > self.max_parts:
            raise BadRequest(f"the form has more than {self.max_parts} fields")
        self._headers, self._chunks = {}, []
        self._kept, self._is_cut = 0, False

    def _add(self, data: bytes, start: int, end: int) -> None:
        kept = min(end - start, self.max_part_bytes - self._kept)
        self._is_cut |= kept < end - start
        self._kept += kept
        self._chunks.append(data[start : start + kept])

    def _end(self) -> None:
        options = _parse_header(self._headers.get("content-disposition", ""))
        name, is_file = options.get("name", ""), "filename" in options
        if name == FIELD and not is_file:
            raise BadRequest(f"field {FIELD!r} holds text, not a file; did you forget the @ in curl -F image=@cat.jpg?")
        data, self._chunks = b"".join(self._chunks), []  # or the part would be held twice
        self._parts.append(Part(name, options.get("filename", ""), data, name == FIELD, self._is_cut))

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._header_name.decode("latin-1").lower()] = self._header_value.decode("utf-8", "replace")
        self._header_name, self._header_value = b"", b""

    def _complete(self) -> None:
        self._is_complete = True
