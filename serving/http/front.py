"""The outermost layer: who may come in, and which requests go past BentoML.

BentoML's middlewares (tracing, metrics, access log, timeout, context) cost more than decoding an image. The product's own
routes do without them, unless tracing was configured.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import aclosing
from typing import Any

from serving.http.errors import Unauthorized, WrongMethod
from serving.http.lifecycle import App
from serving.http.request import Receive, Scope, Send, read_header
from serving.http.response import Answer

ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
_PIECE_BYTES = 65_536
HEALTH_ROUTES = frozenset({"/livez", "/readyz", "/healthz"})


class Front:
    """An ASGI application.

    Args:
        bentoml: BentoML's application, for what is not in ``routes``.
        find_app: gives the application of ``routes``, once the server is up.
        routes: paths that go past BentoML, each with its one method.
        token: that all but the health routes ask for; empty for none.
        stall_timeout_s: seconds that a client may take nothing of a body that is sent as it is made.
        upload_timeout_s: the same while it is still sending its own, which many do before they read.
    """

    def __init__(
        self,
        bentoml: ASGIApp,
        find_app: Callable[[], App],
        routes: Mapping[str, str],
        token: str,
        *,
        stall_timeout_s: int,
        upload_timeout_s: int,
    ) -> None:
        self.bentoml, self.find_app, self.routes = bentoml, find_app, routes
        self.stall_timeout_s, self.upload_timeout_s = stall_timeout_s, upload_timeout_s
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.bentoml(scope, receive, send)
            return
        patience = _Patience(receive, send, self.upload_timeout_s, self.stall_timeout_s)
        try:
            await self._answer(scope, patience.receive, patience.send)
        except StalledError:
            return  # unfinished, for which uvicorn closes the connection

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self.is_authorized(scope):
            message = "this server asks for a token; send the header Authorization: Bearer TOKEN"
            answer = self.find_app().refuse(scope, Unauthorized(message))
        elif (method := self.routes.get(scope["path"])) is None:
            await self.bentoml(scope, receive, send)
            return
        elif method != scope["method"]:
            message = f"{scope['path']} takes {method}, not {scope['method']}"
            answer = self.find_app().refuse(scope, WrongMethod(message, method))
        else:
            answer = await self.find_app().answer(scope, receive)
        await _send_answer(answer, send)

    def is_authorized(self, scope: Scope) -> bool:
        """Whether the request has the token, or needs none."""
        if not self._token or scope["path"] in HEALTH_ROUTES:
            return True
        scheme, _, token = read_header(scope, b"authorization").partition(b" ")
        return hmac.compare_digest(token.strip(), self._token) and scheme.lower() == b"bearer"


async def _send_answer(answer: Answer, send: Send) -> None:
    """Sends it in ASGI's terms; a large one in pieces, each of which waits until the one before is on its way."""
    headers = [(b"content-type", answer.content_type.encode())]
    headers += [(name.lower().encode(), value.encode("latin-1")) for name, value in answer.headers.items()]
    if isinstance(answer.body, bytes):
        headers.append((b"content-length", str(len(answer.body)).encode()))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        last = max(len(answer.body) - 1, 0) // _PIECE_BYTES * _PIECE_BYTES
        for start in range(0, last, _PIECE_BYTES):
            await send({"type": "http.response.body", "body": answer.body[start : start + _PIECE_BYTES], "more_body": True})
        await send({"type": "http.response.body", "body": answer.body[last:]})
        return
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    async with aclosing(answer.body) as body:
        async for chunk in body:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


class StalledError(Exception):
    """The client takes nothing of its answer."""


class _Patience:
    """How long a client may take nothing of an answer: longer while it is sending, since many send all before they read.

    Args:
        receive, send: ASGI's; to be called through the methods of these names.
        upload_s, stall_s: while it sends, and from then on.
    """

    __slots__ = ("_limit", "_receive", "_seconds", "_send", "_stall_s")

    def __init__(self, receive: Receive, send: Send, upload_s: float, stall_s: float) -> None:
        self._receive, self._send, self._seconds, self._stall_s = receive, send, upload_s, stall_s
        self._limit: asyncio.Timeout | None = None

    async def receive(self) -> MutableMapping[str, Any]:
        """ASGI's."""
        message = await self._receive()
        if not message.get("more_body", False):
            self._seconds = self._stall_s
            if self._limit is not None:
                self._limit.reschedule(asyncio.get_running_loop().time() + self._stall_s)
        return message

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """ASGI's. Raises StalledError."""
        self._limit = asyncio.timeout(self._seconds)
        try:
            async with self._limit:
                await self._send(message)
        except TimeoutError as error:
            raise StalledError("the client takes nothing of its answer") from error
        finally:
            self._limit = None
