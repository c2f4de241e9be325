"""``POST /classify`` from the socket to the pipeline and back, past ASGI.

Its messages, its task, and two writes for each answer cost as much processor time as all the rest of a request outside
decoding and the engine, and more than a refusal may cost when there are too many requests. Those with a declared length
that is not too large come this way; all others take uvicorn's, to the same application.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from dhvt.ranking import Ranking
from serving.http.errors import BadRequest, RequestError
from serving.http.front import Front
from serving.http.lifecycle import App, Visit, explain
from serving.http.request import Scope, parse_top_k, read_header
from serving.http.response import Answer
from serving.http.routes import GONE
from serving.uploads.single import FORM_BYTES, cut_upload, parse_upload, require_type

PATH = "/classify"
_LARGE_BYTES = 65_536


class Exchange:
    """One request, and its answer. uvicorn's protocol sees in it the ``RequestResponseCycle`` that it would have made.

    Args:
        app: that answers.
        scope: ASGI's, of the request.
        transport: to write the answer to.
        keep_alive: whether the connection stays open after it.
        default_headers: of every answer.
        on_response: called after it.
    """

    message_event = asyncio.Event()
    """For uvicorn, which sets it; nobody waits for it."""

    def __init__(
        self,
        app: App,
        scope: Scope,
        *,
        transport: asyncio.Transport,
        keep_alive: bool,
        default_headers: Sequence[tuple[bytes, bytes]],
        on_response: Callable[[], None],
    ) -> None:
        self.app, self.scope = app, scope
        self.transport, self.default_headers, self.on_response = transport, default_headers, on_response
        self.keep_alive, self.response_complete, self.disconnected = keep_alive, False, False
        self._visit = Visit.begin(scope)
        self._chunks: list[bytes] = []
        self._work: asyncio.Future[Any] | None = None
        self._timer = asyncio.get_running_loop().call_later(app.settings.request_timeout_s, self.refuse, TimeoutError())
        app.count(1)

    def feed(self, chunk: bytes) -> None:
        """Some of the body."""
        if not self.response_complete:
            self._chunks.append(chunk)

    def finish(self) -> None:
        """The body is complete."""
        if self.response_complete:
            return
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        image = cut_upload(self.scope, body, self.app.settings.max_upload_bytes)
        if image is None:
            self._work = asyncio.create_task(self._parse(body))
            return
        try:
            self._submit(image, {})
        except BadRequest as error:
            self.refuse(error)

    def abandon(self) -> None:
        """The client has closed the connection."""
        if not self.response_complete:
            self.refuse(BadRequest(GONE))

    async def _parse(self, body: bytes) -> None:
        """A form with several fields, or what is none."""
        try:
            upload = await parse_upload(self.scope, body, self.app.settings.max_upload_bytes)
            self._submit(upload.image, upload.fields)
        except Exception as error:  # as App.answer does
            self.refuse(error)

    def _submit(self, image: bytes, fields: dict[str, str]) -> None:
        """Sends an image on its way.

        Raises:
            BadRequest: for ``top_k``.
        """
        top_k = parse_top_k(self.scope, fields)
        classifier = self.app.handlers.classifier

        def answer(prediction: asyncio.Future[Ranking]) -> None:
            if self.response_complete:
                return
            error = prediction.exception()  # which is not raised: its traceback would hold this frame, and this the error
            if error is None:
                self._answer(classifier.answer(prediction.result(), top_k))
            else:
                self.refuse(error)

        self._work = classifier.pipeline.submit(image)
        self._work.add_done_callback(answer)

    def refuse(self, error: BaseException) -> None:
        """Answers with an error, whether or not the body has come."""
        self._answer(explain(error, self._visit, f"no answer within {self.app.settings.request_timeout_s} s").to_answer())

    def _answer(self, answer: Answer) -> None:
        assert isinstance(answer.body, bytes)
        on_response = self.on_response
        self._end()
        self.app.record(self._visit, answer.status)
        if self.transport.is_closing():
            return
        lines = [f"content-type: {answer.content_type}", f"content-length: {len(answer.body)}"]
        lines += [f"{name.lower()}: {value}" for name, value in answer.headers.items()]
        lines += [f"x-request-id: {self._visit.identity}", "\r\n" if self.keep_alive else "connection: close\r\n\r\n"]
        head = [STATUS_LINE[answer.status], *(b"%b: %b\r\n" % header for header in self.default_headers)]
        self.transport.write(b"".join([*head, "\r\n".join(lines).encode("latin-1"), answer.body]))
        if len(answer.body) > _LARGE_BYTES:
            self._watch(sys.maxsize)
        if not self.keep_alive:
            self.transport.close()
        on_response()

    def _watch(self, left: int) -> None:
        """Closes the connection of a client that takes nothing of a large answer for as long as one may take to be made."""
        still_left = self.transport.get_write_buffer_size()
        if still_left >= left:
            self.transport.abort()
        elif still_left:
            asyncio.get_running_loop().call_later(self.app.settings.request_timeout_s, self._watch, still_left)

    def _end(self) -> None:
        self.response_complete = True
        self._timer.cancel()
        self._chunks.clear()
        self.app.count(-1)
        if self._work is not None and self._work is not asyncio.current_task():
            self._work.cancel()
        self._work = None
        del self.on_response  # it holds the connection, and that this


class Direct:
    """Decides, by a request's headers, whether it comes this way.

    Args:
        front: whose token and application are used.
    """

    def __init__(self, front: Front) -> None:
        self.front = front

    def begin(self, scope: Scope, **connection: Any) -> Exchange | None:
        """None for another request, or one whose headers are wrong; one that is too many has been answered then.

        Args:
            scope: complete but for the body.
            connection: see :class:`Exchange`.
        """
        if scope["path"] != PATH or scope["method"] != "POST" or not self.front.is_authorized(scope):
            return None
        app = self.front.find_app()
        length = read_header(scope, b"content-length")
        if not length.isdigit() or not 0 < int(length[:18]) <= app.settings.max_upload_bytes + FORM_BYTES:
            return None
        try:
            require_type(scope)
        except RequestError:
            return None
        refusal = app.refusal()
        exchange = Exchange(app, scope, **connection)
        if refusal is not None:
            exchange.refuse(refusal)
        return exchange
