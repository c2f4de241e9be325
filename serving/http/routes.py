"""What each route does."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any

import psutil

from dhvt.errors import DHVTError
from dhvt.ranking import Ranking
from serving.http.errors import BadRequest, NotReloaded, RequestError, TooLarge, Unauthorized
from serving.http.openapi import openapi_document
from serving.http.request import Receive, Scope, parse_top_k, read_header
from serving.http.response import JSON_LINES, Answer, to_json
from serving.inference.model import Classifier
from serving.metrics import metrics
from serving.settings import Settings
from serving.uploads.image import UploadedImage
from serving.uploads.multi import read_images
from serving.uploads.single import read_upload

logger = logging.getLogger("bentoml.service.dhvt")

_PATIENT_S = 1.0
"""While images wait for longer, it is worth to look whether their clients still do."""

GONE = "the client closed the connection before its image's turn came"

_MAX_ANSWER_BYTES = 100_000_000

_Begun = asyncio.Queue[asyncio.Task[dict[str, Any]] | None]
"""Results of a batch on their way, in order, and None at the end."""

Handler = Callable[[Scope, Receive], Awaitable[Answer]]


class Handlers:
    """The routes, over one model at a time.

    Args:
        settings: of this process.
        classifier: what they start with; a reload replaces it.
    """

    def __init__(self, settings: Settings, classifier: Classifier) -> None:
        self.settings, self.classifier = settings, classifier
        self._reloading = asyncio.Lock()
        self._batch_images, self._batch_bytes = 0, 0  # of all requests to /classify/batch, on their way
        self._tasks: set[asyncio.Task[None]] = set()

    def oldest_wait_s(self) -> float:
        """See :meth:`serving.inference.scheduler.Pipeline.oldest_wait_s`."""
        return self.classifier.pipeline.oldest_wait_s()

    async def classify(self, scope: Scope, receive: Receive) -> Answer:
        """``POST /classify``: one image."""
        upload = await read_upload(scope, receive, self.settings.max_upload_bytes)
        top_k = parse_top_k(scope, upload.fields)
        classifier = self.classifier
        if classifier.pipeline.oldest_wait_s() > _PATIENT_S:
            ranking = await _unless_gone(classifier.pipeline.submit(upload.image), receive)
        else:
            ranking = await classifier.pipeline.submit(upload.image)
        return classifier.answer(ranking, top_k)

    async def classify_batch(self, scope: Scope, receive: Receive) -> Answer:
        """``POST /classify/batch``: many, answered in order; as JSON lines, while they come, where those are accepted."""
        top_k = parse_top_k(scope, {})
        results = self._classify_in_order(read_images(scope, receive, self.settings), top_k)
        if JSON_LINES in read_header(scope, b"accept").decode("latin-1"):
            return Answer(_to_lines(results), content_type=JSON_LINES)
        name = self.classifier.artifact.card.name
        answers: list[bytes] = []  # encoded one by one, which takes less memory and lets others have their turn
        size = 0
        async with aclosing(results):
            async for result in results:
                answers.append(to_json(result))
                size += len(answers[-1])
                if size > _MAX_ANSWER_BYTES:
                    raise TooLarge(
                        f"the answer has more than {_MAX_ANSWER_BYTES:,} bytes; ask for it line by line, with the header "
                        f"Accept: {JSON_LINES}, or for fewer classes, with top_k"
                    )
        return Answer(b'{"model":%b,"results":[%b]}' % (to_json(name), b",".join(answers)))

    async def _classify_in_order(
        self, images: AsyncIterator[UploadedImage], top_k: int
    ) -> AsyncGenerator[dict[str, Any], None]:
        """A result for each image as soon as it is there, all from the model that serves at the start."""
        classifier = self.classifier
        begun: _Begun = asyncio.Queue()
        with classifier.pipeline.hold():
            reading = asyncio.create_task(self._begin_all(images, begun, classifier, top_k))
            try:
                while (task := await begun.get()) is not None:
                    yield await task
                await reading  # for its error
            finally:
                reading.cancel()
                await asyncio.wait([reading])
                while not begun.empty():
                    if (task := begun.get_nowait()) is not None:
                        task.cancel()

    async def _begin_all(self, images: AsyncIterator[UploadedImage], begun: _Begun, classifier: Classifier, top_k: int) -> None:
        """Puts a task for each image into ``begun``, in order, and None at the end; some of them run at once.

        How many, all such requests share, or a few large ones would keep single images waiting behind a long queue.
        """
        running: deque[asyncio.Task[dict[str, Any]]] = deque()
        try:
            async for image in images:
                running.append(self._begin(image, classifier, top_k))
                begun.put_nowait(running[-1])
                while running and (running[0].done() or self._are_too_many()):
                    oldest = running.popleft()
                    if not oldest.done():
                        await asyncio.wait([oldest])
        finally:
            begun.put_nowait(None)

    def _begin(self, image: UploadedImage, classifier: Classifier, top_k: int) -> asyncio.Task[dict[str, Any]]:
        """Of a batch; counted until it is done."""
        size = image.size
        task = asyncio.create_task(_predict_named(classifier, image, top_k))
        self._batch_images, self._batch_bytes = self._batch_images + 1, self._batch_bytes + size

        def forget(_: object) -> None:
            self._batch_images, self._batch_bytes = self._batch_images - 1, self._batch_bytes - size

        task.add_done_callback(forget)
        return task

    def _are_too_many(self) -> bool:
        return self._batch_images >= 4 * self.settings.max_batch_size or self._batch_bytes > 4 * self.settings.max_upload_bytes

    async def info(self, scope: Scope, receive: Receive) -> Answer:
        """``GET /info``: what is served, by what, within which limits."""
        card, choice = self.classifier.artifact.card, self.classifier.choice
        engine = choice.engine
        limits = ("max_upload_bytes", "max_batch_upload_bytes", "max_batch_images", "max_pixels", "max_batch_size",
                  "max_in_flight", "max_queue_ms", "request_timeout_s", "batch_timeout_s")  # fmt: skip
        return Answer(
            to_json(
                {
                    "model": card.name,
                    "classes": card.classes,
                    "digest": self.classifier.artifact.digest,
                    "files": card.files,
                    "metrics": card.metrics,
                    "preprocess": card.preprocess.to_dict(),
                    "temperature": card.temperature,
                    "engine": {"name": engine.name, "precision": engine.precision, "rejected": choice.rejected},
                    "limits": {name: getattr(self.settings, name) for name in limits},
                }
            )
        )

    async def describe(self, scope: Scope, receive: Receive) -> Answer:
        """``GET /docs.json``: the OpenAPI document, which the page at ``/`` shows."""
        return Answer(to_json(openapi_document()))

    async def reload(self, scope: Scope, receive: Receive) -> Answer:
        """``POST /reload``: the model folder, or the store's tag, is read anew by every worker."""
        if not self.settings.token:
            raise Unauthorized("reloading over HTTP needs a server with DHVT_TOKEN; else send its workers SIGHUP")
        await self.load_anew()
        _tell_siblings(signal.SIGHUP)
        return await self.info(scope, receive)

    def reload_soon(self) -> None:
        """For a signal: begins to reload, and reports failure in the log alone."""
        self._keep(asyncio.create_task(self.load_anew()))

    async def load_anew(self) -> None:
        """Opens and proves the model, then lets it answer in place of the old one, which finishes what it accepted.

        Raises:
            NotReloaded: the new one cannot be served; the old one goes on.
        """
        async with self._reloading:
            try:
                classifier = await Classifier.load(self.settings)
            except (DHVTError, OSError) as error:  # a file may vanish between two looks at it
                logger.error("the model was not reloaded: %s", error)
                raise NotReloaded(f"the old model goes on: {error}") from error
            old, self.classifier = self.classifier, classifier
            self._keep(asyncio.create_task(self._retire(old)))

    async def _retire(self, old: Classifier) -> None:
        await old.close()
        self.classifier.announce(1)  # it may go by the names of the old one, which has just been counted out

    def _keep(self, task: asyncio.Task[None]) -> None:
        """Until it is done; asyncio alone may forget a task that nobody holds."""
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, NotReloaded):  # which has been logged
            logger.error("reloading failed for a reason that nobody foresaw", exc_info=error)


async def _predict_named(classifier: Classifier, image: UploadedImage, top_k: int) -> dict[str, Any]:
    """An image's result, or its error, in a batch."""
    if isinstance(image.data, RequestError):
        metrics().images.labels(image.data.code).inc()
        return {"name": image.name, **image.data.to_dict()}
    try:
        ranking = await classifier.pipeline.submit(image.data)
    except RequestError as error:
        return {"name": image.name, **error.to_dict()}
    return {"name": image.name, "predictions": ranking.top(classifier.artifact.card, top_k)}


async def _unless_gone(prediction: asyncio.Future[Ranking], receive: Receive) -> Ranking:
    """The prediction, which is given up when the client closes the connection.

    Raises:
        BadRequest: it has.
    """
    leaving = asyncio.create_task(_wait_for_disconnect(receive))
    waiting: list[asyncio.Future[Any]] = [prediction, leaving]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if prediction.done():
            return prediction.result()
        raise BadRequest(GONE)
    finally:
        prediction.cancel()
        leaving.cancel()
        del prediction, waiting  # or an error, its traceback, this frame and the future would hold each other, and the image


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _to_lines(results: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[bytes, None]:
    """They are made as fast as the body comes: many clients read nothing before they have sent everything."""
    lines: asyncio.Queue[bytes | None] = asyncio.Queue()
    waiting_bytes = 0

    async def fill() -> None:
        nonlocal waiting_bytes
        try:
            async with aclosing(results):
                async for result in results:
                    line = to_json(result) + b"\n"
                    waiting_bytes += len(line)
                    if waiting_bytes > _MAX_ANSWER_BYTES:
                        raise TooLarge(f"{_MAX_ANSWER_BYTES:,} bytes of lines wait to be read; read them while you send")
                    lines.put_nowait(line)
        finally:
            lines.put_nowait(None)

    filling = asyncio.create_task(fill())
    try:
        while (line := await lines.get()) is not None:
            waiting_bytes -= len(line)
            yield line
        await filling  # for its error
    finally:
        filling.cancel()
        await asyncio.wait([filling])


def _tell_siblings(number: signal.Signals) -> None:
    """Sends a signal to the other processes that BentoML started to serve this service; one may be dying."""
    here = psutil.Process()
    same = here.cmdline()[:3]
    for other in psutil.Process(os.getppid()).children():
        with suppress(psutil.Error):
            if other != here and other.cmdline()[:3] == same:
                other.send_signal(number)
