"""The access log: a line of JSON per request, written by a thread of its own, with a limit on lines about refusals."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from logging.handlers import QueueHandler, QueueListener
from queue import Full, Queue
from time import monotonic, sleep

from serving.http.request import RequestContext

logger = logging.getLogger("bentoml.service.dhvt.access")

LINES_PER_S = 10
"""Lines per second about refusals of one kind; a line costs more than a refusal."""

_MAX_PATH = 200
_QUEUED_LINES = 10_000
_LAST_LINES_S = 5


class RateLimit:
    """Lets a number of events of each kind pass per second, and counts the others.

    Args:
        per_s: events of one kind that pass in a second.
        clock: seconds that only grow.
    """

    def __init__(self, per_s: int, clock: Callable[[], float] = monotonic) -> None:
        self._per_s, self._clock = per_s, clock
        self._second = 0
        self._passed: Counter[str] = Counter()
        self._suppressed: Counter[str] = Counter()

    def allow(self, kind: str) -> bool:
        """Whether an event of this kind passes now."""
        second = int(self._clock())
        if second != self._second:
            self._second = second
            self._passed.clear()
        self._passed[kind] += 1
        if self._passed[kind] <= self._per_s:
            return True
        self._suppressed[kind] += 1
        return False

    def take_suppressed(self, kind: str) -> int:
        """Returns how many events of this kind did not pass, and sets the count back to 0."""
        return self._suppressed.pop(kind, 0)

    def suppressed_kinds(self) -> list[str]:
        """The kinds of which some did not pass."""
        return list(self._suppressed)


class RateLimitFilter(logging.Filter):
    """Limits a logger's lines per second and message; a later line of the same message tells how many were left out."""

    def __init__(self, per_s: int = LINES_PER_S) -> None:
        super().__init__()
        self._limit = RateLimit(per_s)

    def filter(self, record: logging.LogRecord) -> bool:
        kind = str(record.msg)
        if not self._limit.allow(kind):
            return False
        suppressed = self._limit.take_suppressed(kind)
        if suppressed:
            record.msg = f"{kind} ({suppressed:,} more lines like this were left out)"
        return True


class _BoundedQueueHandler(QueueHandler):
    """Drops lines when the listener is far behind, where the standard one prints a traceback for each."""

    queue: Queue[logging.LogRecord]

    def __init__(self) -> None:
        super().__init__(Queue(_QUEUED_LINES))
        self.dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except Full:
            self.dropped += 1


class _Listener(QueueListener):
    """Waits until what is queued has left room, where the standard one fails on a full queue and loses all of it."""

    queue: Queue[logging.LogRecord]

    def enqueue_sentinel(self) -> None:
        until = monotonic() + _LAST_LINES_S
        while self.queue.full() and monotonic() < until:
            sleep(0.01)
        super().enqueue_sentinel()


class AccessLog:
    """Writes a line per request, as far as ``level`` asks for it.

    Args:
        level: ``off``, ``errors`` (status 400 and above) or ``all``.

    Refusals of one kind get at most :data:`LINES_PER_S` lines in a second; a line then tells how many were left out.
    """

    def __init__(self, level: str) -> None:
        self.level = level
        self._limit = RateLimit(LINES_PER_S)
        self._report_is_due = False
        self._handler = _BoundedQueueHandler()
        self._listener: _Listener | None = None

    def start(self) -> None:
        """Puts the queue between the log and the handlers that it has now, which BentoML has set up."""
        handlers = _effective_handlers(logger)
        self._listener = _Listener(self._handler.queue, *handlers, respect_handler_level=True)
        self._listener.start()
        logger.handlers, logger.propagate = [self._handler], False
        logging.getLogger("uvicorn.error").addFilter(RateLimitFilter())

    def close(self) -> None:
        """Writes what is queued, and ends the thread."""
        self._report()
        if self._listener is not None:
            with suppress(Full):  # whoever reads the log has stopped
                self._listener.stop()
            self._listener = None

    def record(self, request: RequestContext, seconds: float) -> None:
        """Logs a request that has been answered."""
        if self.level == "off" or (self.level == "errors" and request.status < 400):
            return
        code = request.error_code or (str(request.status) if request.status >= 400 else "")  # Starlette's refusals have none
        if code and not self._limit.allow(code):
            self._report_soon()
            return
        client = request.scope.get("client") or ("unknown",)
        path = request.path if len(request.path) <= _MAX_PATH else f"{request.path[:_MAX_PATH]}…"
        entry = {"request_id": request.request_id, "client": client[0], "method": request.method, "path": path}
        entry |= {"status": request.status} | ({"code": request.error_code} if request.error_code else {})
        logger.info(json.dumps(entry | {"duration_ms": round(seconds * 1000, 1)}))
        if self._handler.dropped:
            self._report_soon()

    def _report_soon(self) -> None:
        if not self._report_is_due:
            self._report_is_due = True
            asyncio.get_running_loop().call_later(1, self._report)

    def _report(self) -> None:
        """A line for each kind of which some were left out."""
        self._report_is_due = False
        for kind in self._limit.suppressed_kinds():
            logger.info(json.dumps({"code": kind, "requests_without_a_line": self._limit.take_suppressed(kind)}))
        if self._handler.dropped:
            dropped, self._handler.dropped = self._handler.dropped, 0
            logger.info(json.dumps({"lines_dropped_because_the_log_is_slow": dropped}))


def _effective_handlers(source: logging.Logger) -> list[logging.Handler]:
    """The handlers that a line of this logger reaches."""
    handlers: list[logging.Handler] = []
    current: logging.Logger | None = source
    while current is not None:
        handlers += current.handlers
        current = current.parent if current.propagate else None
    return handlers
