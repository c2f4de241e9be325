"""Many requests, one engine call: whatever waits when the engine becomes free is its next batch."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from serving.engines import Engine
from serving.errors import EngineFailed

logger = logging.getLogger(__name__)

Waiting = tuple[NDArray[np.uint8], "asyncio.Future[NDArray[np.float32]]"]


class Batcher:
    """Feeds an engine from one event loop. There is no timer: an idle engine starts at once.

    Args:
        engine: called in a thread of its own, one batch at a time.
        max_batch_size: images in one call.
    """

    def __init__(self, engine: Engine, *, max_batch_size: int) -> None:
        self.engine, self.max_batch_size = engine, max_batch_size
        self._waiting: deque[Waiting] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._runner: asyncio.Task[None] | None = None

    async def predict(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """One image ``(H, W, 3)`` to its logits ``(classes,)``.

        Raises:
            EngineFailed: the engine raised on this image's batch.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[NDArray[np.float32]] = loop.create_future()
        self._waiting.append((image, future))
        if self._runner is None or self._runner.done():
            self._runner = loop.create_task(self._run())
        return await future

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._take():
            try:
                logits = await loop.run_in_executor(self._thread, self._predict, [image for image, _ in batch])
            except Exception as error:
                logger.exception("the engine failed on a batch of %d", len(batch))
                for _, future in batch:
                    if not future.done():
                        future.set_exception(EngineFailed(f"the engine failed ({type(error).__name__}); see the server's log"))
            else:
                for (_, future), row in zip(batch, logits, strict=True):
                    if not future.done():
                        future.set_result(row)

    def _take(self) -> list[Waiting]:
        batch: list[Waiting] = []
        while self._waiting and len(batch) < self.max_batch_size:
            entry = self._waiting.popleft()
            if not entry[1].done():  # else its client has gone
                batch.append(entry)
        return batch

    def _predict(self, images: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        return self.engine.predict(np.stack(images))
