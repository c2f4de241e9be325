"""The BentoML service, and how the server is put together.

bentoml serve                             the bundled model
DHVT_MODEL=runs/mine/artifact bentoml serve
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any

import bentoml
from PIL.Image import Image
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response as StarletteResponse
from starlette.responses import StreamingResponse

from dhvt.errors import DHVTError
from serving import private_apis
from serving.bento import find_bento
from serving.errors import InternalError, NotFound, NotReady, RequestError, WrongMethod
from serving.http.auth import read_tokens
from serving.http.lifecycle import RequestLifecycle
from serving.http.open_inference import report_error
from serving.http.request import SCOPE_KEY, Receive, RequestContext, Scope, Send
from serving.http.response import Response
from serving.http.routes import Endpoints
from serving.http.schemas import BatchOutput, ClassifyOutput
from serving.inference.drift import DriftMonitor, drift_folder, prepare_drift_folder
from serving.inference.early import announce_workers, is_worker, load_early, note_reloads, take_opened
from serving.inference.measuring import EngineMeasuring
from serving.inference.model import ServedModel, check_model
from serving.inference.options import DEFAULT_TOP_K
from serving.inference.reload import ModelManager
from serving.metrics import metrics
from serving.packing import PackedModel, service_name
from serving.processes import bound_the_drain, check_port, forget_dead_workers, separate_metrics, tell_siblings
from serving.sampling import prepare_folder
from serving.settings import MODEL_VARIABLE, Settings, count_workers

logger = logging.getLogger("bentoml.service.dhvt")

TRACED_ROUTES = frozenset({"/classify", "/classify/batch"})

load_early(bentoml.server_context.worker_index)

try:
    private_apis.check_private_apis()
    NAME = service_name()
except DHVTError as error:
    sys.exit(f"dhvt: {error}")
separate_metrics(is_worker=is_worker())
private_apis.forget_that_tracking_was_asked()


class _Unread(bentoml.IODescriptor):
    """Input that is handed on as the request, unread, so that every error is answered in our envelope."""

    @classmethod
    async def from_http_request(cls, request: Request, serde: Any) -> _Unread:
        unread: _Unread = cls.model_construct(**dict.fromkeys(cls.model_fields, request))
        return unread


class ClassifyInput(_Unread):
    """An image, as multipart/form-data or as the body itself."""

    image: Image = Field(description="JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF or HEIC file; its bytes tell its format.")
    top_k: int = Field(default=DEFAULT_TOP_K, ge=1, description="How many classes to return; also as ?top_k=.")


class BatchInput(_Unread):
    """Images, as a form with several files; the body may be a tar or zip archive instead."""

    image: list[Image] = Field(description="Files, each a field named image.")


class _Stream(StreamingResponse):
    """Leaves the request's body to the response's generator; Starlette's would read it, looking for a disconnect.

    It closes the generator where sending fails, so that a request is no longer in flight when it is counted and logged.
    """

    body_iterator: AsyncGenerator[bytes, None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.body_iterator):
            await self.stream_response(send)


def _to_starlette(response: Response) -> StarletteResponse:
    kind = StarletteResponse if isinstance(response.body, bytes) else _Stream
    return kind(response.body, response.status, response.headers, response.content_type)  # type: ignore[arg-type]  # by kind


async def _answer_http_exception(request: Request, error: HTTPException) -> StarletteResponse:
    """Errors of BentoML's own routes in our envelope."""
    message = f"{request.method} {request.url.path[:200]}: {error.detail}"
    by_status: dict[int, RequestError] = {
        404: NotFound(message),
        405: WrongMethod(message, (error.headers or {}).get("Allow", "")),
        503: NotReady(message),
    }
    response = report_error(by_status.get(error.status_code, InternalError(message)), request.url.path)
    request.scope[SCOPE_KEY].error_code = response.error_code
    return _to_starlette(response)


class DHVTBentoService(bentoml.Service):
    """BentoML's service, inside our request lifecycle."""

    lifecycle: RequestLifecycle

    def to_asgi(self, is_main: bool = True) -> Any:
        """Returns the application that uvicorn serves; BentoML calls this in each worker."""
        from serving.http.protocol import HTTPProtocol  # subclasses what the check above looked at

        app = super().to_asgi(is_main=False)  # or it would serve BentoML's page, which loads a tracker from another host
        app.add_exception_handler(HTTPException, _answer_http_exception)
        private_apis.remove_middlewares(app)
        private_apis.use_http_protocol(HTTPProtocol)
        traced = TRACED_ROUTES if private_apis.is_traced() else frozenset()
        self.lifecycle = RequestLifecycle(app, Settings.from_environ(), traced=traced)
        return self.lifecycle


@bentoml.service(
    name=NAME,
    service_class=DHVTBentoService,
    workers=count_workers(),
    logging={"access": {"enabled": False}},  # serving/http/access_log.py does it
)
class DHVTService:
    """Names what is on an image."""

    packed_model = PackedModel()
    measuring: EngineMeasuring | None = None

    @bentoml.on_deployment  # once, before any worker starts
    @staticmethod
    def check() -> None:
        """Ends the start with one line when the server cannot run; a worker would be restarted for ever."""
        try:
            check_port()
            settings = Settings.from_environ()
            read_tokens(settings)
            prepare_folder(settings)
            prepare_drift_folder(settings)
            check_model(settings)
        except DHVTError as error:
            sys.exit(f"dhvt: {error}")
        bento = find_bento()
        if bento is not None and MODEL_VARIABLE in os.environ:
            logger.warning("%s is set: %s is served, and not %s of this bento", MODEL_VARIABLE, settings.model, bento.model)
        # In a container BentoML does not replace a worker that died, and serves on with the others until none is left.
        os.environ.pop("BENTOML_CONTAINERIZED", None)
        announce_workers()

    @bentoml.on_startup
    async def start(self) -> None:
        """Loads the model and proves it, before the first request."""
        forget_dead_workers()
        settings = Settings.from_environ()
        loop = asyncio.get_running_loop()
        reload_asked = note_reloads()
        worker = bentoml.server_context.worker_index
        device = settings.device_of(worker)
        self.drift = DriftMonitor(settings, worker or 1, drift_folder(settings), metrics())
        load = partial(ServedModel.load, settings, device, watch=self.drift.watch)
        lifecycle = _lifecycle()

        async def reload() -> ServedModel:
            lifecycle.auth.reload()  # first: that a token counts no longer must not depend on the model
            return await load()

        self.manager = ModelManager(await load(take_opened()), reload)
        self.endpoints = Endpoints(settings, self.manager, partial(tell_siblings, signal.SIGHUP), self.drift.report)
        lifecycle.attach(self.endpoints)
        lifecycle.access_log.start()
        loop.add_signal_handler(signal.SIGHUP, self.manager.reload_soon)
        if reload_asked.is_set():
            self.manager.reload_soon()
        if (worker or 1) == 1:
            self.measuring = EngineMeasuring(settings, device, self.manager, partial(tell_siblings, signal.SIGHUP))
            self.measuring.start()
        bound_the_drain(max(settings.request_timeout_s, settings.batch_timeout_s, settings.explain_timeout_s))

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Writes the last samples and the last lines of the log, and ends the measurement of engines."""
        self.endpoints.sampler.close()
        self.drift.close()
        if self.measuring is not None:
            await self.measuring.stop()
        _lifecycle().access_log.close()

    async def __is_ready__(self) -> bool:
        return await self.manager.current.is_healthy()

    # The two methods below are for BentoML's client and for traced requests; the routes are in serving/http/routes.py.

    @bentoml.api(input_spec=ClassifyInput, output_spec=ClassifyOutput, route="/classify")
    async def classify(self, image: Any, top_k: Any) -> StarletteResponse:
        """Classify one image: `curl -F image=@cat.jpg 'localhost:3000/classify?top_k=3'`."""
        return await _respond_in_bentoml(image)

    @bentoml.api(input_spec=BatchInput, output_spec=BatchOutput, route="/classify/batch")
    async def classify_batch(self, image: Any) -> StarletteResponse:
        """Classify many images: `curl -F image=@a.jpg -F image=@b.jpg localhost:3000/classify/batch`."""
        return await _respond_in_bentoml(image)


def _lifecycle() -> RequestLifecycle:
    service: Any = DHVTService  # which the decorator has made a DHVTBentoService
    lifecycle: RequestLifecycle = service.lifecycle
    return lifecycle


async def _respond_in_bentoml(starlette_request: Request) -> StarletteResponse:
    """With tracing, our lifecycle calls BentoML's application, whose middlewares make the spans, and this ends in it."""
    request: RequestContext = starlette_request.scope[SCOPE_KEY]
    response = await _lifecycle().respond(request)
    request.error_code = response.error_code
    return _to_starlette(response)
