"""A request's life, in the order in which it happens, the same for every request.

id and start time → token → route and method → admission → handler under a time limit → errors to responses → sending →
metrics and log
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator
from dataclasses import replace
from time import perf_counter

from starlette.middleware.cors import CORSMiddleware

from serving.errors import InternalError, NotFound, Overloaded, RequestError, TimedOut, WrongMethod
from serving.http.access_log import AccessLog
from serving.http.auth import TokenAuth
from serving.http.open_inference import match_path, report_error
from serving.http.page import match_page
from serving.http.request import SCOPE_KEY, ASGIApp, Receive, RequestContext, Scope, Send
from serving.http.response import ClientStalledError, Response, ResponseSender, send_response, to_json
from serving.http.routes import BENTOML_ROUTES, ROUTES, Endpoints
from serving.http.time_limit import TimeLimit
from serving.metrics import metrics
from serving.settings import Settings

logger = logging.getLogger("bentoml.service.dhvt")

EXPOSED_HEADERS = ("X-Request-ID", "X-Model-Digest", "X-Engine", "Retry-After")
"""Headers of responses that pages of other origins may read."""

_LABELS = ROUTES.keys() | BENTOML_ROUTES


class RequestLifecycle:
    """The outermost ASGI application.

    Args:
        bentoml: BentoML's application, which answers what is not in :data:`serving.http.routes.ROUTES`.
        settings: of this process.
        traced: paths of ours that go through BentoML's application, whose middlewares make the spans; it calls
            :meth:`respond`.
    """

    def __init__(self, bentoml: ASGIApp, settings: Settings, *, traced: frozenset[str] = frozenset()) -> None:
        self.bentoml, self.settings, self.traced = bentoml, settings, traced
        self.auth = TokenAuth(settings)
        self.access_log = AccessLog(settings.access_log)
        self.in_flight = 0
        self._endpoints: Endpoints | None = None
        origins = settings.origins()
        self._app: ASGIApp = self._dispatch
        if origins:
            self._app = CORSMiddleware(
                self._dispatch,
                allow_origins=origins,
                allow_methods=["GET", "HEAD", "POST"],
                allow_headers=["*"],
                expose_headers=EXPOSED_HEADERS,
            )

    def attach(self, endpoints: Endpoints) -> None:
        """Gives it the loaded model's endpoints; to be called once, before the first request."""
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.bentoml(scope, receive, send)
            return
        request = RequestContext.from_scope(scope, receive)
        request.route = match_page(match_path(request.path))
        sender = ResponseSender(
            request,
            send,
            upload_timeout_s=self.settings.batch_timeout_s,
            stall_timeout_s=self.settings.request_timeout_s,
        )
        try:
            await self._app(scope, receive, sender.send)
        except ClientStalledError as error:
            request.fail(TimedOut(str(error)))  # unfinished, for which uvicorn closes the connection
        except Exception as error:
            await self._send_error(self._explain(error, request), request, sender)
        finally:
            self._record(request)

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or hands it to BentoML's application."""
        request: RequestContext = scope[SCOPE_KEY]
        try:
            self.auth.check(request)
            route = ROUTES.get(request.route)
            if route is None:
                if "\n" in request.path:  # at a path's end Starlette overlooks it, and would find a route of ours
                    raise NotFound(f"there is no {request.path[:200]!r}")
                await self._delegate(request, send)
                return
            if request.method not in route.methods:
                allowed = ", ".join(route.methods)
                raise WrongMethod(f"{request.path} takes {allowed}, not {request.method}", allowed)
        except RequestError as error:
            response = report_error(error, request.path)
        else:
            if request.path in self.traced:
                await self.bentoml(scope, receive, send)
                return
            response = await self.respond(request)
        request.error_code = request.error_code or response.error_code
        await send_response(response, send)

    async def respond(self, request: RequestContext) -> Response:
        """Returns the response of one of our routes. Never raises but for cancellation; every failure is a response too."""
        assert self._endpoints is not None
        route = ROUTES[request.route]
        timeout_s: int = getattr(self.settings, route.timeout)
        refusal = self._refusal() if route.takes_images else None
        self._count(1)
        try:
            if refusal is not None:
                raise refusal
            with TimeLimit(timeout_s):
                response = await route.handle(self._endpoints, request)
        except Exception as error:
            return report_error(self._explain(error, request, f"no response within {timeout_s} s"), request.path)
        finally:
            self._count(-1)
        if isinstance(response.body, bytes):
            return response
        return replace(response, body=self._stream(response.body, request, timeout_s))

    def _refusal(self) -> Overloaded | None:
        """Why a request that comes now could not be answered soon, if so: too many are in flight, or they wait too long."""
        assert self._endpoints is not None
        if self.in_flight >= self.settings.max_in_flight:
            return Overloaded(f"{self.settings.max_in_flight} requests are being answered already; try again in a second")
        if self._endpoints.hangs():
            return Overloaded(f"the engine has not answered for {self.settings.request_timeout_s} s; restart the server")
        waited_s = self._endpoints.oldest_wait_s()
        if 0 < self.settings.max_queue_ms < waited_s * 1000:
            return Overloaded(f"images wait for {waited_s:.1f} s already; try again", retry_after_s=math.ceil(waited_s))
        return None

    async def _stream(
        self, body: AsyncGenerator[bytes, None], request: RequestContext, timeout_s: float
    ) -> AsyncGenerator[bytes, None]:
        """The body as it is made, in flight until its end. Its status has been sent, so an error is its last line."""
        deadline = request.start + timeout_s
        self._count(1)
        try:
            while True:
                with TimeLimit(max(deadline - perf_counter(), 0)):  # not around the yield: it would cancel the sender
                    chunk = await anext(body)
                yield chunk
        except StopAsyncIteration:
            pass
        except Exception as error:
            explained = self._explain(error, request, f"no complete response within {timeout_s} s")
            request.fail(explained)
            yield to_json(explained.to_dict()) + b"\n"
        finally:
            self._count(-1)
            await body.aclose()

    async def _delegate(self, request: RequestContext, send: Send) -> None:
        """Lets BentoML's application answer, under the same time limit."""
        timeout_s = self.settings.request_timeout_s
        try:
            with TimeLimit(timeout_s):
                await self.bentoml(request.scope, request.receive, send)
        except TimeoutError as error:
            raise TimedOut(f"no response within {timeout_s} s") from error

    async def _send_error(self, error: RequestError, request: RequestContext, sender: ResponseSender) -> None:
        """Answers with an error where nothing has been sent yet; else the connection is closed, which tells the client."""
        if not sender.is_started:
            await send_response(report_error(error, request.path), sender.send)
        request.fail(error)

    def _explain(self, error: Exception, request: RequestContext, timed_out: str = "no response in time") -> RequestError:
        """Returns what a client is told; an unexpected error goes to the log with its traceback."""
        if isinstance(error, RequestError):
            return error
        if isinstance(error, TimeoutError):
            return TimedOut(timed_out)
        logger.error("request %s failed unexpectedly", request.request_id, exc_info=error)
        return InternalError("the server failed on this request; see its log")

    def _count(self, change: int) -> None:
        """Counts the requests to our routes that are in flight."""
        self.in_flight += change
        metrics().in_flight.inc(change)

    def _record(self, request: RequestContext) -> None:
        """Counts and logs a request that has been answered."""
        seconds = perf_counter() - request.start
        route = request.route if request.route in _LABELS else "other"  # or strangers could make labels without end
        metrics().observe_request(route, request.status, seconds)
        self.access_log.record(request, seconds)
