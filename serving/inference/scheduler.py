"""Encoded images to rankings: threads that decode, then threads that call the engine on whatever waits.

There is no timer: an engine that is free starts at once, with what was decoded until then. An image that cannot be
decoded never reaches a batch, and an engine that raises loses that batch alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from threading import Thread
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhvt.artifact import ModelCard
from dhvt.data.preprocess import preprocess_image
from dhvt.engines import Engine
from dhvt.errors import ImageError
from dhvt.ranking import Ranking, rank
from serving.http.errors import EngineFailed, InternalError, RequestError, from_image_error
from serving.metrics import Metrics

logger = logging.getLogger(__name__)


class _Job:
    """An image on its way. ``pixels`` is ``(H, W, 3)`` once it is decoded."""

    __slots__ = ("data", "future", "pixels", "submitted")

    data: bytes
    pixels: NDArray[np.uint8]

    def __init__(self, data: bytes, future: asyncio.Future[Ranking]) -> None:
        self.data, self.future, self.submitted = data, future, perf_counter()


_Queue = SimpleQueue[_Job | None]  # None ends the thread that takes it


class Pipeline:
    """Feeds an engine from one event loop.

    Args:
        engine: called by ``engine.concurrency`` threads at once.
        card: of the engine's model.
        decoders: threads that decode.
        max_batch_size: images in one engine call, and fewer where the engine prefers fewer.
        max_pixels: width times height of an image that is still decoded.
        metrics: where times and sizes are counted.
    """

    def __init__(
        self, engine: Engine, card: ModelCard, *, decoders: int, max_batch_size: int, max_pixels: int, metrics: Metrics
    ) -> None:
        self.engine, self.card, self.max_pixels = engine, card, max_pixels
        self.max_batch_size = min(max_batch_size, engine.preferred_batch_size or max_batch_size)
        self.metrics = metrics
        self.failures_in_a_row = 0
        self._calls: set[float] = set()  # when those began that the engine is at
        self._loop = asyncio.get_running_loop()
        # When each was submitted, in this order; touched by the loop's thread alone.
        self._pending: dict[asyncio.Future[Ranking], float] = {}
        self._held: set[asyncio.Future[None]] = set()
        self._encoded: _Queue = SimpleQueue()
        self._decoded: _Queue = SimpleQueue()
        self._decoders = [Thread(target=self._decode, name=f"decode-{i}", daemon=True) for i in range(decoders)]
        self._callers = [Thread(target=self._call, name=f"engine-{i}", daemon=True) for i in range(engine.concurrency)]
        for thread in self._decoders + self._callers:
            thread.start()

    def submit(self, data: bytes) -> asyncio.Future[Ranking]:
        """An encoded image's classes, or the RequestError why there are none: it cannot be decoded, or the engine failed
        on its batch. Cancelling takes it out of the queue."""
        future: asyncio.Future[Ranking] = self._loop.create_future()
        job = _Job(data, future)
        self._pending[future] = job.submitted
        future.add_done_callback(self._pending.__delitem__)
        self._encoded.put(job)
        return future

    async def classify(self, data: bytes) -> Ranking:
        """As :meth:`submit`; raises the error."""
        return await self.submit(data)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """For who submits several images, with pauses: :meth:`close` waits for the end of it."""
        held = self._loop.create_future()
        self._held.add(held)
        try:
            yield
        finally:
            self._held.remove(held)
            held.set_result(None)

    def oldest_wait_s(self) -> float:
        """How long the image that was submitted first has been here, 0 when there is none."""
        return next((perf_counter() - submitted for submitted in self._pending.values()), 0.0)

    def longest_call_s(self) -> float:
        """How long the engine has been at a call, 0 while it is at none."""
        return max((perf_counter() - start for start in tuple(self._calls)), default=0.0)

    async def close(self) -> None:
        """Ends the threads, once everything that was submitted is answered and nobody holds it."""
        while self._pending or self._held:
            unfinished: list[asyncio.Future[Any]] = [*self._pending, *self._held]
            await asyncio.wait(unfinished)
            await asyncio.sleep(0)  # for the callbacks that take them out
        for queue, threads in ((self._encoded, self._decoders), (self._decoded, self._callers)):
            for _ in threads:
                queue.put(None)
            for thread in threads:
                await self._loop.run_in_executor(None, thread.join)

    def _decode(self) -> None:
        while (job := self._encoded.get()) is not None:
            if job.future.done():  # nobody waits for it any more
                continue
            start = perf_counter()
            try:
                job.pixels = preprocess_image(job.data, self.card.preprocess, max_pixels=self.max_pixels)
            except ImageError as error:
                self._post([job], from_image_error(error))
            except Exception:
                logger.exception("decoding failed for a reason that nobody foresaw")
                self._post([job], InternalError("the image could not be decoded; see the server's log"))
            else:
                self.metrics.decode_seconds.observe(perf_counter() - start)
                self._decoded.put(job)
            del job  # or an idle thread would keep the last image

    def _call(self) -> None:
        while batch := self._take():
            start = perf_counter()
            self._calls.add(start)
            try:
                rankings = rank(self.engine.predict(np.stack([job.pixels for job in batch])), self.card)
            except Exception as error:
                logger.exception("the engine failed on a batch of %d", len(batch))
                self.failures_in_a_row += 1
                self._post(batch, EngineFailed(f"the engine failed ({type(error).__name__}); see the server's log"))
            else:
                self.failures_in_a_row = 0
                self._post(batch, rankings)
                waited = [start - job.submitted for job in batch]
                self.metrics.observe_batch(perf_counter() - start, waited, rankings, self.card)
            finally:
                self._calls.discard(start)
            del batch

    def _take(self) -> list[_Job]:
        """What waits, up to the largest batch; at least one image, or none at the end."""
        batch: list[_Job] = []
        while len(batch) < self.max_batch_size:
            try:
                job = self._decoded.get(block=not batch)
            except Empty:
                break
            if job is None:
                if batch:
                    self._decoded.put(None)  # for the next turn
                break
            if not job.future.done():
                batch.append(job)
        return batch

    def _post(self, jobs: Sequence[_Job], outcome: Sequence[Ranking] | RequestError) -> None:
        self.metrics.images.labels(outcome.code if isinstance(outcome, RequestError) else "ok").inc(len(jobs))
        self._loop.call_soon_threadsafe(_settle, jobs, outcome)


def _settle(jobs: Sequence[_Job], outcome: Sequence[Ranking] | RequestError) -> None:
    """Wakes those who wait, in the loop's thread."""
    for index, job in enumerate(jobs):
        if job.future.done():
            continue
        if isinstance(outcome, RequestError):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome[index])
