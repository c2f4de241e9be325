"""The routes, and what each does.

A new route is a method of :class:`Endpoints` and a line in :data:`ROUTES`; then its schema in ``schemas.py``, its entry in
``openapi.py``, of which docs/routes.md is made. Nothing in ``service.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from serving.errors import BadRequest, NotFound, Unauthorized
from serving.http import open_inference
from serving.http.auth import HEALTH_ROUTES
from serving.http.openapi import openapi_document, product_version
from serving.http.page import PAGE_ROUTES, page_response
from serving.http.request import RequestContext, parse_options, parse_question, read_body, refuse_fields, stream_body
from serving.http.response import JSON_LINES, PNG, TIMING_HEADER, Response, model_headers, to_json
from serving.http.results import collect_json, json_lines
from serving.inference.explanations import ExplanationQueue
from serving.inference.model import ServedModel
from serving.inference.multi import MultiImageClassifier
from serving.inference.options import AnswerOptions
from serving.inference.reload import ModelManager
from serving.inference.timing import Timing
from serving.metrics import metrics
from serving.sampling import Sampler
from serving.settings import Settings
from serving.uploads.image import UploadedImage
from serving.uploads.json_body import JSON, max_json_bytes, parse_json_images
from serving.uploads.multi import read_images
from serving.uploads.multipart import media_type
from serving.uploads.single import UploadReader

_WATCH_AFTER_S = 1.0
"""While images wait for longer than this, it is worth to watch whether their clients are still there."""

_LIMITS = (
    "max_upload_bytes",
    "max_batch_upload_bytes",
    "max_batch_images",
    "max_pixels",
    "max_batch_size",
    "max_in_flight",
    "max_queue_ms",
    "request_timeout_s",
    "batch_timeout_s",
    "explain_masks",
    "explain_timeout_s",
)

T = TypeVar("T")


class Endpoints:
    """What each route does, over the model that serves.

    Args:
        settings: of this process.
        manager: of the model.
        tell_siblings: asks the other workers to reload too.
        report_drift: see :meth:`serving.inference.drift.DriftMonitor.report`.
    """

    def __init__(
        self,
        settings: Settings,
        manager: ModelManager,
        tell_siblings: Callable[[], None],
        report_drift: Callable[[], dict[str, Any] | None] = lambda: None,
    ) -> None:
        self.settings, self.manager, self.tell_siblings = settings, manager, tell_siblings
        self._report_drift = report_drift
        self.sampler = Sampler(settings, metrics())
        self._explanations = ExplanationQueue(settings)
        self._multi = MultiImageClassifier(settings, self.sampler.offer)

    @property
    def model(self) -> ServedModel:
        """The model that serves now."""
        return self.manager.current

    def oldest_wait_s(self) -> float:
        """How long the image that was submitted first has waited, 0 when none waits."""
        return self.model.scheduler.oldest_wait_s()

    def hangs(self) -> bool:
        """Whether an engine call takes longer than a request may."""
        return self.model.hangs()

    async def classify(self, request: RequestContext) -> Response:
        """``POST /classify``: one image."""
        reader = UploadReader(request.content_type, self.settings.max_upload_bytes)
        upload = await reader.parse(await read_body(request, reader.max_body_bytes, reader.too_large))
        options = parse_options(request, upload.fields)
        model, timing = self.model, Timing()
        model.require(options)
        # The future has no name here: an error's traceback would hold this frame, and this the future, its error and the image.
        if model.scheduler.oldest_wait_s() > _WATCH_AFTER_S:
            ranking = await _unless_disconnected(model.scheduler.submit(upload.image, timing), request)
        else:
            ranking = await model.scheduler.submit(upload.image, timing)
        self.sampler.offer(upload.image, ranking, model.artifact.card)
        body = to_json({**model.identity, **model.answer(ranking, options)})
        return Response(body, headers=model_headers(model) | {TIMING_HEADER: timing.to_header()})

    async def classify_multiple(self, request: RequestContext) -> Response:
        """``POST /classify/batch``: many images, in order; as JSON lines while they come, where the client accepts those."""
        images, options = await self._read_images(request)
        model = self.model
        model.require(options)
        results = self._multi.classify(model, images, options)
        if JSON_LINES in request.headers.get(b"accept", b"").decode("latin-1"):
            return _respond(model, json_lines(results, model.identity), JSON_LINES)
        return _respond(model, await collect_json(results, model.identity))

    async def _read_images(self, request: RequestContext) -> tuple[AsyncIterator[UploadedImage], AnswerOptions]:
        """The images of a request to ``/classify/batch``, as they come where its body can be read in pieces; its options."""
        settings = self.settings
        if media_type(request.content_type) == JSON:
            limit = min(max_json_bytes(settings.max_upload_bytes), settings.max_batch_upload_bytes)
            too_large = f"the JSON body is larger than {limit:,} bytes; send a form or an archive, or several requests"
            body = await read_body(request, limit, too_large)
            images, fields = parse_json_images(body, settings.max_batch_images, settings.max_upload_bytes)
            return images, parse_options(request, fields)
        options = parse_options(request, {})
        chunks = stream_body(request, settings.max_batch_upload_bytes, "send several requests")
        return read_images(request.content_type, chunks, settings), options

    async def explain(self, request: RequestContext) -> Response:
        """``POST /explain``: maps of what in an image an answer depends on, as JSON, or drawn where the client accepts PNG."""
        question = parse_question(request)
        self._explanations.require(self.model, question)  # before the upload, as overload is
        reader = UploadReader(request.content_type, self.settings.max_upload_bytes)
        upload = await reader.parse(await read_body(request, reader.max_body_bytes, reader.too_large))
        refuse_fields(upload.fields, ())
        model = self.model
        with model.scheduler.hold():  # also while others have their turn
            answer = asyncio.ensure_future(self._explanations.explain(model, upload.image, question))
            found = await _unless_disconnected(answer, request)
        if PNG in request.headers.get(b"accept", b"").decode("latin-1"):
            return _respond(model, await asyncio.to_thread(found.to_png), PNG)
        return _respond(model, to_json({**model.identity, **found.to_dict()}))

    async def info(self, request: RequestContext) -> Response:
        """``GET /info``: what is served, by what, within which limits."""
        model = self.model
        card, choice = model.artifact.card, model.choice
        engine = choice.engine
        return _respond(
            model,
            to_json(
                {
                    **model.identity,
                    "architecture": card.architecture,
                    "classes": card.classes,
                    "digest": model.digest,
                    "files": card.files,
                    "metrics": card.metrics,
                    "preprocess": card.preprocess.to_dict(),
                    "temperature": card.temperature,
                    "reference": model.assessor.describe(),
                    "engine": {
                        "name": engine.name,
                        "precision": engine.precision,
                        "rejected": choice.rejected,
                        "candidates": [candidate.to_dict() for candidate in choice.candidates],
                    },
                    "explanations": list(model.explainer.methods) if self.settings.explain_masks else [],
                    "limits": {name: getattr(self.settings, name) for name in _LIMITS},
                }
            ),
        )

    async def drift(self, request: RequestContext) -> Response:
        """``GET /drift``: whether the images are still of the kind that the model was measured on."""
        model = self.model
        report = await asyncio.to_thread(self._report_drift)
        if report is None:
            raise NotFound(
                f"drift is not tested: DHVT_DRIFT_EVERY is 0, or {model.artifact.card.name} has no reference in "
                f"{model.engine.precision}; dhvt calibrate --model {self.settings.model} --data IMAGES makes one"
            )
        return _respond(model, to_json({**model.identity, **report}))

    async def openapi(self, request: RequestContext) -> Response:
        """``GET /docs.json``: the OpenAPI document."""
        return Response(_encoded_openapi())

    async def page(self, request: RequestContext) -> Response:
        """``GET /``, ``/ui``, ``/docs`` and the files below: the page, and the reference of the routes."""
        return page_response(request.path)

    async def reload(self, request: RequestContext) -> Response:
        """``POST /reload``: every worker reads the model folder, or the store's tag, again."""
        if not self.settings.asks_for_token():
            raise Unauthorized(
                "reloading over HTTP needs a server with DHVT_TOKEN or DHVT_TOKEN_FILE; else send its workers SIGHUP"
            )
        try:
            await self.manager.reload()
        finally:  # each worker finds out itself: a model that does not load must not keep the others from new tokens
            self.tell_siblings()
        return await self.info(request)

    async def v2_server(self, request: RequestContext) -> Response:
        """``GET /v2``: the server's name, version and extensions."""
        return open_inference.server_metadata(product_version())

    async def v2_live(self, request: RequestContext) -> Response:
        """``GET /v2/health/live``: 200 while the process answers."""
        return Response(b"")

    async def v2_ready(self, request: RequestContext) -> Response:
        """``GET /v2/health/ready``: 200 once the model is proved, 503 while the engine fails."""
        return await open_inference.readiness(self.model)

    async def v2_model(self, request: RequestContext) -> Response:
        """``GET /v2/models/{name}``: the tensors that it takes and gives."""
        open_inference.check_name(request, self.model)
        return open_inference.model_metadata(self.model)

    async def v2_model_ready(self, request: RequestContext) -> Response:
        """``GET /v2/models/{name}/ready``: the same as of the server."""
        open_inference.check_name(request, self.model)
        return await open_inference.readiness(self.model)

    async def v2_infer(self, request: RequestContext) -> Response:
        """``POST /v2/models/{name}/infer``: the classes of one image or several."""
        model = self.model
        open_inference.check_name(request, model)
        with model.scheduler.hold():  # while the body comes
            return await open_inference.infer(request, model, self.settings, self.sampler.offer)


@dataclass(frozen=True)
class Route:
    """How a path is answered.

    Args:
        method: one that is GET stands for HEAD too.
        handle: the method of :class:`Endpoints`.
        timeout: the setting that is its time limit.
        takes_images: whether overload refuses its requests.
    """

    method: str
    handle: Callable[[Endpoints, RequestContext], Awaitable[Response]]
    timeout: str = "request_timeout_s"
    takes_images: bool = False

    @property
    def methods(self) -> tuple[str, ...]:
        """All that it takes."""
        return ("GET", "HEAD") if self.method == "GET" else (self.method,)


ROUTES = {
    "/classify": Route("POST", Endpoints.classify, takes_images=True),
    "/classify/batch": Route("POST", Endpoints.classify_multiple, "batch_timeout_s", takes_images=True),
    "/explain": Route("POST", Endpoints.explain, "explain_timeout_s", takes_images=True),
    "/info": Route("GET", Endpoints.info),
    "/drift": Route("GET", Endpoints.drift),
    "/reload": Route("POST", Endpoints.reload, "batch_timeout_s"),
    "/docs.json": Route("GET", Endpoints.openapi),
    "/v2": Route("GET", Endpoints.v2_server),
    "/v2/health/live": Route("GET", Endpoints.v2_live),
    "/v2/health/ready": Route("GET", Endpoints.v2_ready),
    "/v2/models/{name}": Route("GET", Endpoints.v2_model),
    "/v2/models/{name}/ready": Route("GET", Endpoints.v2_model_ready),
    "/v2/models/{name}/infer": Route("POST", Endpoints.v2_infer, takes_images=True),
    **dict.fromkeys(PAGE_ROUTES, Route("GET", Endpoints.page)),
}
"""Everything that is answered here; the rest is BentoML's."""

BENTOML_ROUTES = HEALTH_ROUTES | {"/metrics"}
"""The routes of BentoML's application that are meant to be used."""


def _respond(model: ServedModel, body: bytes | AsyncGenerator[bytes, None], content_type: str = JSON) -> Response:
    """A response that this model gave."""
    return Response(body, content_type=content_type, headers=model_headers(model))


@cache
def _encoded_openapi() -> bytes:
    return to_json(openapi_document())


async def _unless_disconnected(answer: asyncio.Future[T], request: RequestContext) -> T:
    """Returns the answer; cancels it when the client closes the connection.

    Raises:
        BadRequest: the client did so.
    """
    disconnected = asyncio.create_task(_wait_for_disconnect(request))
    waiting: list[asyncio.Future[Any]] = [answer, disconnected]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        raise BadRequest("the client closed the connection before its image's turn came")
    finally:
        answer.cancel()
        disconnected.cancel()
        del answer, waiting  # or an error, its traceback, this frame and the future would hold each other, and the image


async def _wait_for_disconnect(request: RequestContext) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
