"""Encoded images to rankings: threads that decode, then threads that call the engine on whatever waits.

There is no timer: an engine that is free starts at once, with what was decoded until then. An image that cannot be
decoded never reaches an inference batch, and an engine that raises loses that batch alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
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
from serving.errors import EngineFailed, InternalError, Overloaded, RequestError, from_image_error
from serving.inference.timing import Timing
from serving.metrics import Metrics

logger = logging.getLogger(__name__)

_NOT_DECODED = "the image could not be decoded; see the server's log"
Outcome = Ranking | RequestError
Observe = Callable[[Sequence[Ranking]], None]
"""Takes the answers of one batch; returns at once."""


def ignore(rankings: Sequence[Ranking]) -> None:
    """Observes nothing."""


class _Job:
    """An image on its way. ``pixels`` is ``(H, W, 3)`` once it is decoded, ``waits_since`` None while it is being decoded."""

    __slots__ = ("data", "future", "is_of_batch", "pixels", "submitted", "timing", "waits_since")

    data: bytes
    pixels: NDArray[np.uint8]
    waits_since: float | None

    def __init__(self, data: bytes, future: asyncio.Future[Ranking], timing: Timing, is_of_batch: bool) -> None:
        self.data, self.future, self.timing, self.is_of_batch = data, future, timing, is_of_batch
        self.submitted = self.waits_since = perf_counter()


class _Chunk:
    """A few preprocessed images that are run alone, after what came before them, and uncounted; see :meth:`Scheduler.run`."""

    __slots__ = ("future", "pixels", "waits_since")

    def __init__(self, pixels: NDArray[np.uint8], future: asyncio.Future[NDArray[np.float32]]) -> None:
        self.pixels, self.future, self.waits_since = pixels, future, perf_counter()


def _counts(job: _Job | _Chunk) -> bool:
    """Whether its wait says how long a new image would have to wait."""
    return job.waits_since is not None and not (isinstance(job, _Job) and job.is_of_batch)


_Queue = SimpleQueue[_Job | _Chunk | None]  # None ends the thread that takes it


class Scheduler:
    """Feeds an engine from one event loop.

    Args:
        engine: called by ``engine.concurrency`` threads at once.
        card: of the engine's model.
        decoders: threads that decode.
        max_batch_size: images in one engine call, and fewer where the engine prefers fewer.
        max_pixels: width times height of an image that is still decoded.
        metrics: where times and sizes are counted.
        observe: called with the rankings of each batch, after they were handed out.
    """

    def __init__(
        self,
        engine: Engine,
        card: ModelCard,
        *,
        decoders: int,
        max_batch_size: int,
        max_pixels: int,
        metrics: Metrics,
        observe: Observe = ignore,
    ) -> None:
        self.engine, self.card, self.max_pixels = engine, card, max_pixels
        self.max_batch_size = min(max_batch_size, engine.preferred_batch_size or max_batch_size)
        self.metrics, self._observe = metrics, observe
        self.failures_in_a_row = 0
        self._calls: set[float] = set()  # when those engine calls began that are running
        self._loop = asyncio.get_running_loop()
        # In the order in which they were submitted; touched by the loop's thread alone.
        self._pending: dict[asyncio.Future[Any], _Job | _Chunk] = {}
        self._is_closed = False
        self._held: set[asyncio.Future[None]] = set()
        self._encoded: _Queue = SimpleQueue()
        self._decoded: _Queue = SimpleQueue()
        self._decoders = [Thread(target=self._decode_loop, name=f"decode-{i}", daemon=True) for i in range(decoders)]
        self._callers = [Thread(target=self._engine_loop, name=f"engine-{i}", daemon=True) for i in range(engine.concurrency)]
        for thread in self._decoders + self._callers:
            thread.start()

    def submit(self, data: bytes, timing: Timing | None = None, *, is_of_batch: bool = False) -> asyncio.Future[Ranking]:
        """Returns the future ranking of an encoded image; cancelling it takes the image out of the queue.

        Its exception is a RequestError: the image cannot be decoded, or the engine failed on it.

        Args:
            data: the file's bytes.
            timing: is filled in by the time the ranking is there.
            is_of_batch: whether it is one of a request's many, whose wait is not counted.
        """
        job = self._add(data, timing, is_of_batch)
        self._encoded.put(job)
        return job.future

    def submit_preprocessed(self, pixels: NDArray[np.uint8]) -> asyncio.Future[Ranking]:
        """Returns the same for an image that has the model's size already, ``(H, W, 3)``."""
        job = self._add(b"")
        job.pixels = pixels
        self._decoded.put(job)
        return job.future

    def run(self, pixels: NDArray[np.uint8]) -> asyncio.Future[NDArray[np.float32]]:
        """Returns the future logits ``(B, classes)`` of preprocessed images ``(B, H, W, 3)`` that no client sent.

        They are one engine call, after what was submitted before. Few at once let the images of clients wait little. No metric
        and no test for drift counts them.
        """
        future: asyncio.Future[NDArray[np.float32]] = self._loop.create_future()
        chunk = _Chunk(pixels, future)
        self._enter(chunk)
        self._decoded.put(chunk)
        return future

    def _add(self, data: bytes, timing: Timing | None = None, is_of_batch: bool = False) -> _Job:
        """A new image, which waits until its future is done."""
        future: asyncio.Future[Ranking] = self._loop.create_future()
        job = _Job(data, future, timing or Timing(), is_of_batch)
        self._enter(job)
        return job

    def _enter(self, job: _Job | _Chunk) -> None:
        if self._is_closed:  # no thread would ever take it
            raise Overloaded("the model has been replaced meanwhile; send the request again")
        self._pending[job.future] = job
        job.future.add_done_callback(self._pending.__delitem__)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keeps :meth:`close` waiting until the block ends, for a request that submits several images with pauses."""
        held = self._loop.create_future()
        self._held.add(held)
        try:
            yield
        finally:
            self._held.remove(held)
            held.set_result(None)

    def oldest_wait_s(self) -> float:
        """How long the image that was submitted first has waited for a thread or the engine, 0 when none waits.

        One that is being decoded waits for nothing, however long that takes. One of a request's many does not count: it waits
        for those of its own request, and a slow engine must not refuse others for that.
        """
        since = next((job.waits_since for job in self._pending.values() if _counts(job)), None)
        return 0.0 if since is None else perf_counter() - since

    def is_idle(self) -> bool:
        """Whether nothing waits, is decoded or run."""
        return not self._pending

    def longest_call_s(self) -> float:
        """How long the longest engine call that is running has run, 0 when none is."""
        return max((perf_counter() - start for start in tuple(self._calls)), default=0.0)

    def is_alive(self) -> bool:
        """Whether all threads run."""
        return all(thread.is_alive() for thread in self._decoders + self._callers)

    async def close(self) -> None:
        """Ends the threads, once everything that was submitted is answered and nobody holds it."""
        while self._pending or self._held:
            unfinished: list[asyncio.Future[Any]] = [*self._pending, *self._held]
            await asyncio.wait(unfinished)
            await asyncio.sleep(0)  # for the callbacks that take them out
        self._is_closed = True
        for queue, threads in ((self._encoded, self._decoders), (self._decoded, self._callers)):
            for _ in threads:
                queue.put(None)
            while any(thread.is_alive() for thread in threads):
                # Joined in an executor, a thread whose engine hangs would keep the process from ending.
                await asyncio.sleep(0.01)

    def _decode_loop(self) -> None:
        """A decoding thread. Whatever goes wrong with one image, the next is taken."""
        while (job := self._encoded.get()) is not None:
            assert isinstance(job, _Job)
            try:
                self._decode(job)
            except Exception:
                logger.exception("decoding failed unexpectedly")
                self._settle_soon([job], [InternalError(_NOT_DECODED)])
            del job  # or an idle thread would keep the last image

    def _decode(self, job: _Job) -> None:
        """Decodes one image, and puts it into the engine's queue."""
        if job.future.done():  # nobody waits for it any more
            return
        start, job.waits_since = perf_counter(), None
        try:
            job.pixels = preprocess_image(job.data, self.card.preprocess, max_pixels=self.max_pixels)
        except ImageError as error:
            self._finish([job], [from_image_error(error)])
            return
        except Exception:
            logger.exception("an image could not be decoded")
            self._finish([job], [InternalError(_NOT_DECODED)])
            return
        job.data = b""  # the engine may be long in coming
        job.timing.decode_s = perf_counter() - start
        job.waits_since = job.submitted + job.timing.decode_s
        self.metrics.decode_seconds.observe(job.timing.decode_s)
        self._decoded.put(job)

    def _engine_loop(self) -> None:
        """An engine thread. Whatever goes wrong with one inference batch, the next is taken."""
        while True:
            batch: list[_Job] = []
            last: _Chunk | None = None
            try:
                last = self._fill(batch)
                if batch:
                    self._predict(batch)
                elif last is None:
                    return
            except Exception:
                logger.exception("an inference batch of %d failed unexpectedly", len(batch))
                self._settle_soon(batch, [InternalError("the server failed on this image; see its log")] * len(batch))
            if last is not None:
                self._run(last)

    def _fill(self, batch: list[_Job]) -> _Chunk | None:
        """Moves what waits into the batch, up to the largest, or until a chunk, which is returned; waits for the first of them.

        Neither an image nor a chunk means that the thread is to end.
        """
        while len(batch) < self.max_batch_size:
            try:
                job = self._decoded.get(block=not batch)
            except Empty:
                break
            if job is None:
                if batch:
                    self._decoded.put(None)  # for the next turn
                break
            if job.future.done():
                continue
            if isinstance(job, _Chunk):
                return job
            batch.append(job)
        return None

    def _run(self, chunk: _Chunk) -> None:
        """Calls the engine on a chunk, and hands out its logits."""
        outcome: NDArray[np.float32] | RequestError
        start = perf_counter()
        self._calls.add(start)
        try:
            outcome = self.engine.predict(chunk.pixels)
            if not np.isfinite(outcome).all():
                outcome = EngineFailed("the engine gave NaN or infinite logits; see the server's log")
        except Exception as error:
            logger.exception("the engine failed on a chunk of %d", len(chunk.pixels))
            outcome = EngineFailed(f"the engine failed ({type(error).__name__}); see the server's log")
        finally:
            self._calls.discard(start)
        self._settle_soon([chunk], [outcome])

    def _predict(self, batch: list[_Job]) -> None:
        """Calls the engine on a batch, and hands out the outcomes."""
        start = perf_counter()
        self._calls.add(start)
        try:
            logits = self.engine.predict(np.stack([job.pixels for job in batch]))
            outcomes, has_failed = self._to_outcomes(logits)
        except Exception as error:
            logger.exception("the engine failed on a batch of %d", len(batch))
            failure = EngineFailed(f"the engine failed ({type(error).__name__}); see the server's log")
            outcomes, has_failed = [failure] * len(batch), True
        finally:
            self._calls.discard(start)
        seconds = perf_counter() - start
        for job in batch:
            job.timing.wait_s = start - job.submitted - job.timing.decode_s
            job.timing.engine_s = seconds
        self.failures_in_a_row = self.failures_in_a_row + 1 if has_failed else 0
        self._finish(batch, outcomes)
        if not has_failed:
            good = [
                (None if job.is_of_batch else start - job.submitted, outcome)
                for job, outcome in zip(batch, outcomes, strict=True)
                if isinstance(outcome, Ranking)
            ]
            self.metrics.observe_batch(seconds, good, self.card)
            self._observe([ranking for _, ranking in good])

    def _to_outcomes(self, logits: NDArray[np.float32]) -> tuple[list[Outcome], bool]:
        """A ranking for each image, or the error where its logits are NaN or infinite; and whether no image has finite ones."""
        finite: NDArray[np.bool_] = np.isfinite(logits).all(axis=1)  # type: ignore[assignment]  # logits have 2 dimensions
        if finite.all():
            return list(rank(logits, self.card)), False
        logger.error("the engine gave NaN or infinite logits for %d of %d images", len(finite) - finite.sum(), len(finite))
        rankings = iter(rank(logits[finite], self.card) if finite.any() else ())
        error = EngineFailed("the engine gave NaN or infinite logits for this image; see the server's log")
        return [next(rankings) if good else error for good in finite], not finite.any()

    def _finish(self, jobs: Sequence[_Job], outcomes: Sequence[Outcome]) -> None:
        """Counts the outcomes, and hands them to those who wait, even when counting fails."""
        try:
            codes = Counter(outcome.code if isinstance(outcome, RequestError) else "ok" for outcome in outcomes)
            for code, number in codes.items():
                self.metrics.images.labels(code).inc(number)
        finally:
            self._settle_soon(jobs, outcomes)

    def _settle_soon(self, jobs: Sequence[_Job | _Chunk], outcomes: Sequence[Any]) -> None:
        with suppress(RuntimeError):  # the loop has been closed: nobody waits any more
            self._loop.call_soon_threadsafe(_settle, jobs, outcomes)


def _settle(jobs: Sequence[_Job | _Chunk], outcomes: Sequence[Any]) -> None:
    """Gives each job its outcome, in the loop's thread."""
    for job, outcome in zip(jobs, outcomes, strict=True):
        if job.future.done():
            continue
        if isinstance(outcome, RequestError):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)
