"""HTTP responses: status, headers and body, and how they are sent under a time limit."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from serving.errors import RequestError
from serving.http.time_limit import TimeLimit

if TYPE_CHECKING:
    from serving.http.request import Message, RequestContext, Send
    from serving.inference.model import ServedModel

DIGEST_HEADER = "X-Model-Digest"
"""Header of the responses that a model gave, with its digest."""
ENGINE_HEADER = "X-Engine"
"""Header of the same, with the engine and its precision, as ``openvino:int8``."""
TIMING_HEADER = "Server-Timing"
"""Header of the response to one image: where its time went, as browsers' developer tools show it."""

JSON = "application/json"
JSON_LINES = "application/x-ndjson"
PNG = "image/png"
HTML = "text/html; charset=utf-8"
_PIECE_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Response:
    """Status, headers and body; a body that is a generator is sent as it is made.

    ``error_code`` is the code of the error that the body reports, empty for a success.
    """

    body: bytes | AsyncGenerator[bytes, None]
    status: int = 200
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    error_code: str = ""

    def encoded_headers(self) -> list[tuple[bytes, bytes]]:
        """The headers as ASGI wants them, ``content-length`` included where it is known."""
        headers = [(b"content-type", self.content_type.encode())]
        headers += [(name.lower().encode(), value.encode("latin-1")) for name, value in self.headers.items()]
        if isinstance(self.body, bytes):
            headers.append((b"content-length", b"%d" % len(self.body)))
        return headers


_SURROGATE = re.compile("[\ud800-\udfff]")
_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def to_json(value: Any) -> bytes:
    """Returns compact UTF-8; what UTF-8 cannot encode, such as a byte of a class's name in another encoding, is escaped."""
    text = _encoder.encode(value)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub(lambda found: rf"\\u{ord(found[0]):x}", text).encode()  # as dhvt.data.text.encodable


def model_headers(model: ServedModel) -> dict[str, str]:
    """The headers of what this model answered."""
    return {DIGEST_HEADER: model.digest, ENGINE_HEADER: f"{model.engine.name}:{model.engine.precision}"}


def error_response(error: RequestError) -> Response:
    """Returns the response that reports an error."""
    return Response(to_json(error.to_dict()), error.status, headers=error.headers, error_code=error.code)


async def send_response(response: Response, send: Send) -> None:
    """Sends a response in ASGI's messages; a large one in pieces, each of which waits until the one before is written."""
    await send({"type": "http.response.start", "status": response.status, "headers": response.encoded_headers()})
    if isinstance(response.body, bytes):
        last = max(len(response.body) - 1, 0) // _PIECE_BYTES * _PIECE_BYTES
        for start in range(0, last, _PIECE_BYTES):
            piece = response.body[start : start + _PIECE_BYTES]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": response.body[last:]})
        return
    async with aclosing(response.body) as body:
        async for chunk in body:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


class ClientStalledError(Exception):
    """The client reads nothing of its response."""


class ResponseSender:
    """The ``send`` of one request: adds its id, notes its status, and limits how long the client may read nothing.

    Args:
        request: whose response is sent.
        send: ASGI's.
        upload_timeout_s: the limit while the client is still sending; many send everything before they read.
        stall_timeout_s: the limit after that.
    """

    __slots__ = ("_limit", "_send", "is_started", "request", "stall_timeout_s", "upload_timeout_s")

    def __init__(self, request: RequestContext, send: Send, *, upload_timeout_s: float, stall_timeout_s: float) -> None:
        self.request, self._send = request, send
        self.upload_timeout_s, self.stall_timeout_s = upload_timeout_s, stall_timeout_s
        self.is_started = False
        self._limit: TimeLimit | None = None

    async def send(self, message: Message) -> None:
        """Sends an ASGI message.

        Raises:
            ClientStalledError: the client has read nothing for too long.
        """
        request = self.request
        if message["type"] == "http.response.start":
            self.is_started = True
            request.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", request.request_id.encode())]
        if not request.body_is_complete:
            request.on_body_complete = self._shorten
        self._limit = TimeLimit(self.stall_timeout_s if request.body_is_complete else self.upload_timeout_s)
        try:
            with self._limit:
                await self._send(message)
        except TimeoutError as error:
            raise ClientStalledError("the client reads nothing of its response") from error
        finally:
            self._limit = None

    def _shorten(self) -> None:
        """The client has sent everything: what is being sent now has the shorter limit from here on."""
        if self._limit is not None:
            self._limit.restart(self.stall_timeout_s)
