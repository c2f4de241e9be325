"""An ASGI request: its headers, and its body read under a limit that trusts no declared length."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from serving.http.errors import BadRequest, TooLarge

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

DEFAULT_TOP_K = 5


def read_header(scope: Scope, name: bytes) -> bytes:
    """A header's value, empty when it is not there.

    Args:
        name: in lower case.
    """
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return b""


def read_content_type(scope: Scope) -> tuple[str, str]:
    """The header as it was sent, and the type alone, in lower case and without parameters."""
    declared = read_header(scope, b"content-type").decode("latin-1")
    return declared, declared.partition(";")[0].strip().lower()


async def stream_body(scope: Scope, receive: Receive, limit: int, too_large: str) -> AsyncIterator[bytes]:
    """The body as it comes, counted.

    Raises:
        TooLarge: with the message ``too_large``, at once when the declared length is above ``limit``.
        BadRequest: the client went away before the end.
    """
    declared = read_header(scope, b"content-length")
    if declared.isdigit() and int(declared[:18]) > limit:
        raise TooLarge(too_large)
    received = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadRequest("the client closed the connection before the body was complete")
        chunk = message.get("body", b"")
        received += len(chunk)
        if received > limit:
            raise TooLarge(too_large)
        if chunk:
            yield chunk
        if not message.get("more_body", False):
            return


async def read_body(scope: Scope, receive: Receive, limit: int, too_large: str) -> bytes:
    """The whole body; raises as :func:`stream_body` does."""
    chunks = [chunk async for chunk in stream_body(scope, receive, limit, too_large)]
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def parse_top_k(scope: Scope, fields: dict[str, str]) -> int:
    """``top_k`` of the query, else of the form's fields, else :data:`DEFAULT_TOP_K`.

    Raises:
        BadRequest: one of them is no whole number of at least 1.
    """
    given = [fields["top_k"]] if "top_k" in fields else []
    if scope["query_string"]:
        given += parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True).get("top_k", [])
    for text in given:
        if not (text.isascii() and text.isdigit() and text.strip("0")):
            raise BadRequest(f"top_k is {text!r}; it must be a whole number of at least 1")
    return int(given[-1].lstrip("0")[:9]) if given else DEFAULT_TOP_K
