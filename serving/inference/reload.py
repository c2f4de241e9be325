"""The model that serves, and how another takes its place without losing a request."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable

from dhvt.errors import DHVTError
from serving.errors import NotReloaded
from serving.inference.model import ServedModel
from serving.processes import prefer_event_loop

logger = logging.getLogger("bentoml.service.dhvt")


class ModelManager:
    """Holds the model that serves, and replaces it.

    Args:
        current: the model to begin with.
        load: loads and proves what the settings name now.

    ``on_change`` is called after each replacement.

    One reload runs at a time. Those that are asked for meanwhile become one, which begins after it: it sees whatever they
    were asked for.
    """

    def __init__(self, current: ServedModel, load: Callable[[], Awaitable[ServedModel]]) -> None:
        self.current = current
        self.on_change: Callable[[], None] = lambda: None
        self._load = load
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        settle_garbage()
        prefer_event_loop()

    async def reload(self) -> None:
        """Returns when a model serves that was read after this call.

        Cancelling this does not cancel the reload, which others may wait for.

        Raises:
            NotReloaded: the new one cannot be served; the old one stays.
        """
        await asyncio.shield(self.reload_soon())

    def reload_soon(self) -> asyncio.Task[None]:
        """Begins a reload, or joins the one that will begin next; failures are in the log."""
        if self._next is None:
            self._next = asyncio.create_task(self._reload_after(self._running))
            self._next.add_done_callback(_log_failure)
        return self._next

    async def _reload_after(self, previous: asyncio.Task[None] | None) -> None:
        if previous is not None:
            await asyncio.wait([previous])
        self._running, self._next = self._next, None
        try:
            model = await self._load()
        except (DHVTError, OSError) as error:  # a file may vanish between two looks at it
            raise NotReloaded(f"the old model stays: {error}") from error
        old, self.current = self.current, model
        self.on_change()
        retiring = asyncio.create_task(self._retire(old))
        self._retiring.add(retiring)  # asyncio alone may forget a task that nobody holds
        retiring.add_done_callback(self._retiring.discard)

    async def _retire(self, old: ServedModel) -> None:
        """Lets the old model finish what it accepted."""
        await old.close()
        self.current.announce(1)  # it may have the old one's labels, which have just been set to 0
        del old
        settle_garbage()
        prefer_event_loop()


def settle_garbage() -> None:
    """Collects garbage, and exempts what is left, the libraries and the model, from later collections.

    Each full collection would walk over all of it, and nothing else runs meanwhile.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _log_failure(task: asyncio.Task[None]) -> None:
    error = None if task.cancelled() else task.exception()
    if isinstance(error, NotReloaded):
        logger.error("the model was not reloaded: %s", error)
    elif error is not None:
        logger.error("reloading failed unexpectedly", exc_info=error)
