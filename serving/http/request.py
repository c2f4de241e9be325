"""One HTTP request while it is answered: its headers, its body under a byte limit, its query."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any
from urllib.parse import parse_qs

from dhvt.assessment import EXAMPLES, Asked
from dhvt.explanation.explainer import Question
from serving.errors import BadRequest, RequestError, TooLarge
from serving.inference.options import DEFAULT_TOP_K, AnswerOptions

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

SCOPE_KEY = "dhvt.request"
"""Where a request's context is in its ASGI scope."""

_REQUEST_ID = re.compile(rb"[\w.:/+=@-]{1,128}", re.ASCII)
_MAX_LENGTH_DIGITS = 18
_SHARE = re.compile(r"0?\.\d{1,9}", re.ASCII)


@dataclass(slots=True, eq=False)
class RequestContext:
    """A request, and what is recorded of it.

    Attributes:
        scope, receive: ASGI's.
        headers: by lower-case name; of several with one name, the last.
        request_id: the client's ``X-Request-ID`` if it is valid, else a random one.
        start: ``perf_counter()`` when its headers had come.
        status: of the response; what is recorded when none is sent, until then.
        error_code: ``error.code`` of the response, empty for a success.
        route: its path, or the template of its path, such as ``/v2/models/{name}``.
        body_is_complete: whether all of its body has been received.
        on_body_complete: called when that changes.
    """

    scope: Scope
    receive: Receive
    headers: dict[bytes, bytes]
    request_id: str
    start: float
    status: int = 500
    error_code: str = ""
    route: str = ""
    body_is_complete: bool = False
    on_body_complete: Callable[[], None] | None = None

    @classmethod
    def from_scope(cls, scope: Scope, receive: Receive) -> RequestContext:
        """The context of a request that has just come; also stored in its scope."""
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        # Not a secret, so no system call, which would release the GIL.
        request_id = given.decode() if _REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"
        request = scope[SCOPE_KEY] = cls(scope, receive, headers, request_id, perf_counter())
        request.body_is_complete = not headers.keys() & {b"content-length", b"transfer-encoding"}  # RFC 9112: it has none
        return request

    @property
    def path(self) -> str:
        """The path, decoded, without the query."""
        path: str = self.scope["path"]
        return path

    @property
    def method(self) -> str:
        """The HTTP method, in capitals."""
        method: str = self.scope["method"]
        return method

    def fail(self, error: RequestError) -> None:
        """Records the request as failed with this error, whatever status line has been sent."""
        self.status, self.error_code = error.status, error.code

    @property
    def content_type(self) -> str:
        """The Content-Type as it was sent, empty where there is none."""
        return self.headers.get(b"content-type", b"").decode("latin-1")

    async def next_chunk(self) -> bytes:
        """The next bytes of the body.

        Raises:
            BadRequest: the client closed the connection before the end.
        """
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise BadRequest("the client closed the connection before the body was complete")
        if not message.get("more_body", False):
            self.body_is_complete = True
            if self.on_body_complete is not None:
                self.on_body_complete()
        chunk: bytes = message.get("body", b"")
        return chunk


def check_declared_length(request: RequestContext, limit: int, too_large: str) -> None:
    """Raises TooLarge with this message when the ``Content-Length`` is above ``limit``, with or without leading zeros."""
    digits = request.headers.get(b"content-length", b"").lstrip(b"0")
    if digits.isdigit() and (len(digits) > _MAX_LENGTH_DIGITS or int(digits) > limit):
        raise TooLarge(too_large)


async def stream_body(request: RequestContext, limit: int, hint: str) -> AsyncIterator[bytes]:
    """Yields the body as it comes. What is counted is what comes, not what was declared.

    Raises:
        TooLarge: with ``hint`` in its message, at once when the declared length is above ``limit``.
        BadRequest: the client closed the connection before the end.
    """
    too_large = f"the upload is larger than {limit:,} bytes; {hint}"
    check_declared_length(request, limit, too_large)
    received = 0
    while not request.body_is_complete:
        chunk = await request.next_chunk()
        received += len(chunk)
        if received > limit:
            raise TooLarge(too_large)
        if chunk:
            yield chunk


async def read_body(request: RequestContext, limit: int, too_large: str) -> bytes:
    """Returns the whole body, under the rules of :func:`stream_body`; without a generator, which each image would pay for.

    Raises:
        TooLarge: with the message ``too_large``.
        BadRequest: the client closed the connection before the end.
    """
    check_declared_length(request, limit, too_large)
    body = await request.next_chunk()
    if request.body_is_complete and len(body) <= limit:
        return body
    chunks, received = [body], len(body)
    while received <= limit:
        if request.body_is_complete:
            return b"".join(chunks)
        chunks.append(await request.next_chunk())
        received += len(chunks[-1])
    raise TooLarge(too_large)


def parse_options(request: RequestContext, fields: dict[str, str]) -> AnswerOptions:
    """Returns ``top_k`` of the query, else of the body's fields, and ``coverage``, ``by_class`` and ``reject`` of the query.

    Raises:
        BadRequest: ``top_k`` is not a whole number of at least 1, or another is not what it must be or has another name.
    """
    given = _parse_query(request, ("top_k", "coverage", "by_class", "reject"))
    top_k = _parse_top_k(fields, given)
    if not given.keys() & {"coverage", "by_class", "reject"}:
        return AnswerOptions(top_k)
    coverage, reject = (_parse_share(given, name) for name in ("coverage", "reject"))
    by_class = _parse_switch(given, "by_class")
    if by_class and coverage is None:
        raise BadRequest(f"by_class needs coverage, as {EXAMPLES['coverage']}")
    return AnswerOptions(top_k, Asked(coverage=coverage, by_class=by_class, reject=reject))


def parse_top_k(request: RequestContext, fields: dict[str, str]) -> int:
    """Returns ``top_k`` alone, where there is no other parameter.

    Raises:
        BadRequest: it is not a whole number of at least 1, or there is another.
    """
    return _parse_top_k(fields, _parse_query(request, ("top_k",)))


def parse_question(request: RequestContext) -> Question:
    """Returns what the query of ``/explain`` asks: ``label``, ``method``, ``layer`` and ``masks``.

    Raises:
        BadRequest: ``layer`` or ``masks`` is not a whole number of at least 1, or one is given twice or has another name.
    """
    given = _parse_query(request, ("label", "method", "layer", "masks"))
    for name, texts in given.items():
        if len(texts) > 1:
            raise BadRequest(f"{name} is given {len(texts)} times; give it once")
    values: dict[str, Any] = {name: given[name][0] for name in ("label", "method") if name in given}
    values |= {name: _parse_count(name, given[name][0]) for name in ("layer", "masks") if name in given}
    return Question(**values)


def _parse_query(request: RequestContext, names: tuple[str, ...]) -> dict[str, list[str]]:
    """The texts of each parameter; one that is misspelt would otherwise be as if it were not given."""
    query = request.scope["query_string"]
    if not query:
        return {}
    given = parse_qs(query.decode("latin-1"), keep_blank_values=True)
    if unknown := next((name for name in given if name not in names), None):
        raise BadRequest(f"no parameter {unknown[:100]!r}; there are {', '.join(names)}")
    return given


def _parse_count(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and text.strip("0")):
        raise BadRequest(f"{name} is {text[:100]!r}; it must be a whole number of at least 1")
    return int(text.lstrip("0")[:9])


def refuse_fields(fields: Iterable[str], names: tuple[str, ...]) -> None:
    """Raises BadRequest for a field of the body that would be as if it were not given."""
    if unknown := next((name for name in fields if name not in names), None):
        taken = f"{' and '.join(names)} beside the image" if names else "the image alone"
        raise BadRequest(f"the body has a field {unknown[:100]!r}; it takes {taken}, and the URL the other options")


def _parse_top_k(fields: dict[str, str], given: dict[str, list[str]]) -> int:
    refuse_fields(fields, ("top_k",))
    counts = [_parse_count("top_k", text) for text in [*fields.values(), *given.get("top_k", [])]]
    return counts[-1] if counts else DEFAULT_TOP_K


def _parse_share(given: dict[str, list[str]], name: str) -> float | None:
    """The number between 0 and 1 that the query gives."""
    value = None
    for text in given.get(name, []):
        value = float(text) if _SHARE.fullmatch(text) else 0.0
        if not value:
            raise BadRequest(f"{name} is {text[:100]!r}; it must be a number between 0 and 1, as {EXAMPLES[name]}")
    return value


def _parse_switch(given: dict[str, list[str]], name: str) -> bool:
    for text in given.get(name, []):
        if text not in ("true", "false"):
            raise BadRequest(f"{name} is {text[:100]!r}; it must be true or false")
    return given.get(name, ["false"])[-1] == "true"
