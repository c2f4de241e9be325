"""The BentoML service: routes as its users and its documentation see them, and nothing else.

bentoml serve                             the bundled model
DHVT_MODEL=runs/mine/artifact bentoml serve
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import shutil
import signal
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import bentoml
import psutil
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.server.http.instruments import RunnerTrafficMetricsMiddleware
from bentoml._internal.server.http.traffic import TimeoutMiddleware
from bentoml._internal.utils.analytics.usage_stats import do_not_track
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from dhvt.errors import DHVTError
from serving.direct import Direct
from serving.http.errors import InternalError, NotFound, NotReady, RequestError, WrongMethod
from serving.http.front import Front
from serving.http.lifecycle import ROUTES, App
from serving.http.protocol import use_protocol
from serving.http.request import Receive, Scope, Send
from serving.http.response import Answer
from serving.http.routes import Handlers
from serving.http.schemas import BatchInput, BatchOutput, ClassifyInput, ClassifyOutput
from serving.inference.model import Classifier, check_model
from serving.settings import Settings, count_workers

logger = logging.getLogger("bentoml.service.dhvt")

# The one keeps counters for every path that anybody ever asked for. The other keeps a timer, and with it the request, for as
# long as a request might have taken; routes here have time limits of their own.
_UNWANTED = (RunnerTrafficMetricsMiddleware, TimeoutMiddleware)
TRACED_ROUTES = frozenset({"/classify", "/classify/batch"})


def _keep_metrics_apart() -> None:
    """BentoML keeps the metrics of all servers in one folder, which the next server to start empties."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")  # workers have it
    if folder is None:
        folder = tempfile.mkdtemp(prefix="dhvt-metrics-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    BentoMLContainer.prometheus_multiproc_dir.set(folder)


_keep_metrics_apart()
do_not_track.cache_clear()  # the command that imports this had asked before it was set; see dhvt.telemetry


def _forget_dead_workers() -> None:
    """What was in flight in a worker that was killed would be counted for ever."""
    from prometheus_client.multiprocess import mark_process_dead  # not before the folder is set

    folder = Path(BentoMLContainer.prometheus_multiproc_dir.get())
    for pid in {int(file.stem.rpartition("_")[2]) for file in folder.glob("gauge_live*.db")}:
        if not psutil.pid_exists(pid):
            mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]  # prometheus_client's own


def _bound_the_drain(seconds: float) -> None:
    """After SIGTERM, uvicorn waits for its connections, and for ever for one whose client takes nothing of its answer."""
    loop, begin = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)

    def give_up() -> None:
        logger.warning("connections that are still open after %d s are closed", seconds)
        signal.raise_signal(signal.SIGINT)  # with which uvicorn no longer waits

    def drain(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(loop.call_later, seconds, give_up)
        if callable(begin):
            begin(number, frame)

    signal.signal(signal.SIGTERM, drain)


@cache
def _find_app() -> App:
    app: App = bentoml.get_current_service().app
    return app


async def _answer_http_exception(request: Request, error: HTTPException) -> Response:
    """Errors of BentoML's own routes in our envelope."""
    message = f"{request.method} {request.url.path}: {error.detail}"
    in_our_terms: dict[int, RequestError] = {
        404: NotFound(message),
        405: WrongMethod(message, (error.headers or {}).get("Allow", "")),
        503: NotReady(message),
    }
    return _to_response(in_our_terms.get(error.status_code, InternalError(message)).to_answer())


def _to_response(answer: Answer) -> Response:
    if isinstance(answer.body, bytes):
        return Response(answer.body, answer.status, answer.headers, answer.content_type)
    return _Stream(answer.body, answer.status, answer.headers, answer.content_type)


class _Stream(StreamingResponse):
    """Leaves the request's body to whom makes the answer; Starlette's would read it, looking for a disconnect."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.stream_response(send)
        if self.background is not None:
            await self.background()


class DHVTBentoService(bentoml.Service):
    """BentoML's service, behind :class:`serving.http.front.Front`."""

    def to_asgi(self, is_main: bool = True) -> Any:
        settings = Settings.from_environ()
        app = super().to_asgi(is_main)
        app.add_exception_handler(HTTPException, _answer_http_exception)
        app.user_middleware = [layer for layer in app.user_middleware if layer.cls not in _UNWANTED]
        # With tracing, requests take BentoML's way, which makes the spans; it ends in the methods below.
        is_traced = bool(BentoMLContainer.tracing.sample_rate.get())
        routes = {path: method for path, method in ROUTES.items() if not (is_traced and path in TRACED_ROUTES)}
        limits = {"stall_timeout_s": settings.request_timeout_s, "upload_timeout_s": settings.batch_timeout_s}
        front = Front(app, _find_app, routes, settings.token, **limits)
        origins = [origin.strip() for origin in settings.cors_origins.split(",") if origin.strip()]
        use_protocol(None if is_traced or origins else Direct(front))
        if origins:
            return CORSMiddleware(front, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"])
        return front


@bentoml.service(name="dhvt", service_class=DHVTBentoService, workers=count_workers())
class DHVTService:
    """Names what is on an image."""

    app: App

    @bentoml.on_deployment  # once, before any worker starts
    @staticmethod
    def check() -> None:
        """Ends the start with one line when the model cannot be served; a worker would be restarted for ever."""
        try:
            check_model(Settings.from_environ())
        except DHVTError as error:
            sys.exit(f"dhvt: {error}")
        # In a container BentoML does not replace a worker that died, and serves on with the others until none is left.
        os.environ.pop("BENTOML_CONTAINERIZED", None)

    @bentoml.on_startup
    async def start(self) -> None:
        """Loads the model and proves it, before the first request."""
        _forget_dead_workers()
        settings = Settings.from_environ()
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        loop.add_signal_handler(signal.SIGHUP, changed.set)  # which would else end a process that is still starting
        self.handlers = Handlers(settings, await Classifier.load(settings))
        self.app = App(settings, self.handlers)
        loop.add_signal_handler(signal.SIGHUP, self.handlers.reload_soon)
        if changed.is_set():
            self.handlers.reload_soon()
        _bound_the_drain(max(settings.request_timeout_s, settings.batch_timeout_s))

    async def __is_ready__(self) -> bool:
        return await self.handlers.classifier.is_healthy()

    @bentoml.api(input_spec=ClassifyInput, output_spec=ClassifyOutput, route="/classify")
    async def classify(self, image: Any, top_k: Any) -> Response:
        """Classify one image: `curl -F image=@cat.jpg 'localhost:3000/classify?top_k=3'`."""
        return await self._answer(image)

    @bentoml.api(input_spec=BatchInput, output_spec=BatchOutput, route="/classify/batch")
    async def classify_batch(self, image: Any) -> Response:
        """Classify many images: `curl -F image=@a.jpg -F image=@b.jpg localhost:3000/classify/batch`."""
        return await self._answer(image)

    async def _answer(self, request: Request) -> Response:
        return _to_response(await self.app.answer(request.scope, request.receive))
