"""Requests to answers: admission, time limits, errors, and what is counted and logged of each."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from time import perf_counter
from typing import NamedTuple

from serving.http.errors import InternalError, Overloaded, RequestError, TimedOut
from serving.http.request import Receive, Scope, read_header
from serving.http.response import Answer
from serving.http.routes import Handler, Handlers
from serving.metrics import metrics
from serving.settings import Settings

logger = logging.getLogger("bentoml.service.dhvt")
access_logger = logging.getLogger("bentoml.service.dhvt.access")

ROUTES = {"/classify": "POST", "/classify/batch": "POST", "/info": "GET", "/reload": "POST", "/docs.json": "GET"}
"""The one method of each of the product's own routes."""

_REFUSALS_LOGGED_PER_S = 10
_REQUEST_ID = re.compile(rb"[\w.:/+=@-]{1,128}", re.ASCII)


class Visit(NamedTuple):
    """A request by its scope, when it came (``perf_counter``), and its id."""

    scope: Scope
    start: float
    identity: str

    @classmethod
    def begin(cls, scope: Scope) -> Visit:
        """With the request's own id where it has a fit one, else a new one: no secret, so no system call that gives up the
        GIL."""
        request_id = read_header(scope, b"x-request-id")
        identity = request_id.decode() if _REQUEST_ID.fullmatch(request_id) else f"{random.getrandbits(128):032x}"
        return cls(scope, perf_counter(), identity)


@dataclass(frozen=True)
class _Route:
    handle: Handler
    timeout_s: int
    takes_images: bool


class App:
    """Answers the product's own routes.

    Args:
        settings: of this process.
        handlers: what each route does.
    """

    def __init__(self, settings: Settings, handlers: Handlers) -> None:
        self.settings, self.handlers = settings, handlers
        self.in_flight = 0
        self._second = self._refusals = 0  # the last second in which there were any, and how many
        self._routes = {
            "/classify": _Route(handlers.classify, settings.request_timeout_s, True),
            "/classify/batch": _Route(handlers.classify_batch, settings.batch_timeout_s, True),
            "/info": _Route(handlers.info, settings.request_timeout_s, False),
            "/reload": _Route(handlers.reload, settings.batch_timeout_s, False),
            "/docs.json": _Route(handlers.describe, settings.request_timeout_s, False),
        }

    def refuse(self, scope: Scope, error: RequestError) -> Answer:
        """For a request that no route takes: counted and logged as any other."""
        visit = Visit.begin(scope)
        self.record(visit, error.status)
        return _with_identity(error.to_answer(), visit)

    async def answer(self, scope: Scope, receive: Receive) -> Answer:
        """Never raises but for cancellation; whatever goes wrong is an answer too."""
        visit, route = Visit.begin(scope), self._routes[scope["path"]]
        refusal = self.refusal() if route.takes_images else None
        self.count(1)
        try:
            if refusal:
                raise refusal
            async with asyncio.timeout(route.timeout_s):
                answer = await route.handle(scope, receive)
        except Exception as error:
            answer = explain(error, visit, f"no answer within {route.timeout_s} s").to_answer()
        finally:
            self.count(-1)
        answer = _with_identity(answer, visit)
        if isinstance(answer.body, bytes):
            self.record(visit, answer.status)
            return answer
        return replace(answer, body=self._stream(answer.body, visit, route.timeout_s))

    def refusal(self) -> Overloaded | None:
        """Why a request that comes now could not be answered soon, if so: too many are in flight, or they wait too long."""
        if self.in_flight >= self.settings.max_in_flight:
            return Overloaded(f"{self.settings.max_in_flight} requests are being answered already; try again in a second")
        waited_s = self.handlers.oldest_wait_s()
        if 0 < self.settings.max_queue_ms < waited_s * 1000:
            return Overloaded(f"images wait for {waited_s:.1f} s already; try again", retry_after_s=math.ceil(waited_s))
        return None

    async def _stream(self, body: AsyncGenerator[bytes, None], visit: Visit, timeout_s: int) -> AsyncGenerator[bytes, None]:
        """The body as it is made, in flight until its end; its status has gone out, so an error is its last line."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        self.count(1)
        try:
            while True:
                async with asyncio.timeout_at(deadline):  # not around the yield: it would cancel whoever sends
                    chunk = await anext(body)
                yield chunk
        except StopAsyncIteration:
            pass
        except Exception as error:
            yield explain(error, visit, f"no complete answer within {timeout_s} s").to_line()
        finally:
            self.count(-1)
            self.record(visit, 200)
            await body.aclose()

    def count(self, change: int) -> None:
        """Requests that are in flight now."""
        self.in_flight += change
        metrics().in_flight.inc(change)

    def record(self, visit: Visit, status: int) -> None:
        """A request that has been answered: in the metrics, and in the log where it is to be there."""
        seconds = perf_counter() - visit.start
        path = visit.scope["path"]
        route = path if path in ROUTES else "other"  # or strangers could make labels without end
        metrics().observe_request(route, status, seconds)
        level = self.settings.access_log
        if level == "all" or (level == "errors" and status >= 400 and not self._is_one_of_many(status)):
            client = visit.scope.get("client") or ("unknown",)
            entry = {"request_id": visit.identity, "client": client[0], "method": visit.scope["method"], "path": path}
            access_logger.info(json.dumps(entry | {"status": status, "duration_ms": round(seconds * 1000, 1)}))

    def _is_one_of_many(self, status: int) -> bool:
        """Whether this second's refusals for want of room have their lines already: a line costs more than a refusal."""
        if status != Overloaded.status:
            return False
        second = int(perf_counter())
        self._refusals = self._refusals + 1 if second == self._second else 1
        self._second = second
        return self._refusals > _REFUSALS_LOGGED_PER_S


def explain(error: BaseException, visit: Visit, timed_out: str) -> RequestError:
    """What a client is told of it; what nobody foresaw goes to the log with its traceback."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, TimeoutError):
        return TimedOut(timed_out)
    logger.error("request %s failed for a reason that nobody foresaw", visit.identity, exc_info=error)
    return InternalError("the server failed on this request; see its log")


def _with_identity(answer: Answer, visit: Visit) -> Answer:
    return replace(answer, headers={**answer.headers, "X-Request-ID": visit.identity})
