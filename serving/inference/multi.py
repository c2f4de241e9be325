"""Requests with several images: results in order, each as soon as it is there, with a bound on what waits."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from dhvt.artifact import ModelCard
from dhvt.ranking import Ranking
from serving.errors import RequestError
from serving.inference.model import ServedModel
from serving.inference.options import AnswerOptions
from serving.metrics import metrics
from serving.settings import Settings
from serving.uploads.image import UploadedImage

Result = dict[str, Any]
OfferSample = Callable[[bytes, Ranking, ModelCard], None]
"""See :meth:`serving.sampling.Sampler.offer`."""

_TaskQueue = asyncio.Queue[asyncio.Task[Result] | None]
"""Results of a request that are being computed, in order, and None at the end."""


class MultiImageClassifier:
    """Classifies the images of requests that carry several.

    How many of their images wait at once, all such requests share, or a few large ones would keep single images waiting
    behind a long queue.

    Args:
        settings: of this process; ``max_upload_bytes`` bounds what waits, beside the size of the engine's batches.
        offer_sample: called with each image that was classified.
    """

    def __init__(self, settings: Settings, offer_sample: OfferSample = lambda image, ranking, card: None) -> None:
        self._offer_sample = offer_sample
        self._max_bytes = 4 * settings.max_upload_bytes
        self._images, self._bytes = 0, 0  # of all requests, waiting

    async def classify(
        self, model: ServedModel, images: AsyncIterator[UploadedImage], options: AnswerOptions
    ) -> AsyncGenerator[Result, None]:
        """Yields a result for each image in order, all from this model.

        Raises:
            RequestError: the images cannot be read further.
        """
        started: _TaskQueue = asyncio.Queue()
        with model.scheduler.hold():
            reading = asyncio.create_task(self._start_all(images, started, model, options))
            try:
                while (task := await started.get()) is not None:
                    yield await task
                await reading  # for its error
            finally:
                reading.cancel()
                await asyncio.wait([reading])
                while not started.empty():
                    if (task := started.get_nowait()) is not None:
                        task.cancel()

    async def _start_all(
        self, images: AsyncIterator[UploadedImage], started: _TaskQueue, model: ServedModel, options: AnswerOptions
    ) -> None:
        """Puts a task for each image into ``started``, in order, and None at the end."""
        running: deque[asyncio.Task[Result]] = deque()
        try:
            async for image in images:
                running.append(self._start(image, model, options))
                started.put_nowait(running[-1])
                while running and (running[0].done() or self._is_full(model)):
                    oldest = running.popleft()
                    if not oldest.done():
                        await asyncio.wait([oldest])
        finally:
            started.put_nowait(None)

    def _start(self, image: UploadedImage, model: ServedModel, options: AnswerOptions) -> asyncio.Task[Result]:
        """A task that classifies one image, counted until it is done."""
        size = image.size
        task = asyncio.create_task(self._classify_named(model, image, options))
        self._images, self._bytes = self._images + 1, self._bytes + size

        def uncount(_: object) -> None:
            self._images, self._bytes = self._images - 1, self._bytes - size

        task.add_done_callback(uncount)
        return task

    def _is_full(self, model: ServedModel) -> bool:
        return self._images >= 4 * model.scheduler.max_batch_size or self._bytes > self._max_bytes

    async def _classify_named(self, model: ServedModel, image: UploadedImage, options: AnswerOptions) -> Result:
        """One image's name with its predictions or its error."""
        if isinstance(image.data, RequestError):
            metrics().images.labels(image.data.code).inc()
            return {"name": image.name, **image.data.to_dict()}
        try:
            ranking = await model.scheduler.submit(image.data, is_of_batch=True)
        except RequestError as error:
            return {"name": image.name, **error.to_dict()}
        self._offer_sample(image.data, ranking, model.artifact.card)
        return {"name": image.name, **model.answer(ranking, options)}
