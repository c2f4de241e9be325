"""``POST /classify`` from the socket to the pipeline and back, past ASGI.

Its messages, its task, and two writes for each answer cost four times the processor time of what is here. Only requests
that look as most do come this way; all others, and all that are refused before their body is read, take uvicorn's, to the
same application. So nothing is decided here that is not decided by :mod:`serving.app` and :mod:`serving.uploads`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from serving.answers import Answer
from serving.app import App, Visit, explain
from serving.bodies import Scope, parse_top_k, read_header
from serving.errors import BadRequest
from serving.front import Front
from serving.handlers import GONE
from serving.predictions import Ranking
from serving.uploads import FORM_BYTES, cut_upload, may_carry_picture

PATH = "/classify"
_MOST_TOP_K = 100
"""Larger answers are sent in pieces, as fast as the client takes them, which :mod:`serving.front` sees to."""


class Exchange:
    """One request, and its answer. uvicorn's protocol sees in it the ``RequestResponseCycle`` that it would have made.

    Args:
        app: that answers.
        scope: ASGI's, of the request.
        top_k: classes asked for.
        transport: to write the answer to.
        keep_alive: whether the connection stays open after it.
        default_headers: of every answer.
        on_response: called at the end.
    """

    message_event = asyncio.Event()
    """For uvicorn, which sets it; nobody waits for it."""

    def __init__(
        self,
        app: App,
        scope: Scope,
        top_k: int,
        *,
        transport: asyncio.Transport,
        keep_alive: bool,
        default_headers: Sequence[tuple[bytes, bytes]],
        on_response: Callable[[], None],
    ) -> None:
        self.app, self.scope, self.top_k = app, scope, top_k
        self.transport, self.default_headers, self.on_response = transport, default_headers, on_response
        self.keep_alive, self.response_complete, self.disconnected = keep_alive, False, False
        self.chunks: list[bytes] = []
        self._visit = Visit.begin(scope)
        self._classifier = app.handlers.classifier
        self._prediction: asyncio.Future[Ranking] | None = None
        self._timer = asyncio.get_running_loop().call_later(app.settings.request_timeout_s, self._refuse, TimeoutError())
        app.count(1)

    def submit(self) -> bytes | None:
        """Sends the picture of the body, which is complete, on its way.

        Returns:
            The body where it is none of the usual ones; then this ends, and nothing has been answered.
        """
        body = self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)
        self.chunks = []
        image = cut_upload(self.scope, body, self.app.settings.max_upload_bytes)
        if image is None:
            self._end()
            return body
        self._prediction = self._classifier.pipeline.submit(image)
        self._prediction.add_done_callback(self._finish)
        return None

    def abandon(self) -> None:
        """The client has closed the connection."""
        if not self.response_complete:
            self._refuse(BadRequest(GONE))

    def _finish(self, prediction: asyncio.Future[Ranking]) -> None:
        if self.response_complete:
            return
        error = prediction.exception()  # which is not raised: its traceback would hold this frame, and this the error
        if error is None:
            self._answer(self._classifier.answer(prediction.result(), self.top_k))
        else:
            self._refuse(error)

    def _refuse(self, error: BaseException) -> None:
        self._answer(explain(error, self._visit, f"no answer within {self.app.settings.request_timeout_s} s").to_answer())

    def _answer(self, answer: Answer) -> None:
        self._end()
        self.app.record(self._visit, answer.status)
        if self.transport.is_closing():
            return
        assert isinstance(answer.body, bytes)
        lines = [f"content-type: {answer.content_type}", f"content-length: {len(answer.body)}"]
        lines += [f"{name.lower()}: {value}" for name, value in answer.headers.items()]
        lines += [f"x-request-id: {self._visit.identity}", "\r\n" if self.keep_alive else "connection: close\r\n\r\n"]
        head = [STATUS_LINE[answer.status], *(b"%b: %b\r\n" % header for header in self.default_headers)]
        self.transport.write(b"".join([*head, "\r\n".join(lines).encode("latin-1"), answer.body]))
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    def _end(self) -> None:
        self.response_complete = True
        self._timer.cancel()
        self.app.count(-1)
        if self._prediction is not None:
            self._prediction.cancel()


class Direct:
    """Decides, by a request's headers, whether it comes this way.

    Args:
        front: whose token and application are used.
    """

    def __init__(self, front: Front) -> None:
        self.front = front

    def begin(self, scope: Scope, **connection: Any) -> Exchange | None:
        """None for a request that is not usual, or is to be refused.

        Args:
            scope: complete but for the body.
            connection: see :class:`Exchange`.
        """
        if scope["path"] != PATH or scope["method"] != "POST" or not self.front.is_authorized(scope):
            return None
        if read_header(scope, b"origin"):  # of a page, for which CORS is decided elsewhere
            return None
        app = self.front.find_app()
        length = read_header(scope, b"content-length")
        if not length.isdigit() or not 0 < int(length[:18]) <= app.settings.max_upload_bytes + FORM_BYTES:
            return None
        try:
            top_k = parse_top_k(scope, {})
        except BadRequest:
            return None
        if top_k > _MOST_TOP_K or not may_carry_picture(scope) or app.refusal() is not None:
            return None
        return Exchange(app, scope, top_k, **connection)
