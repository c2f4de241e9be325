"""A limit on how long a block of a task may take."""

from __future__ import annotations

import asyncio
from types import TracebackType


class TimeLimit:
    """Cancels the current task's block when its time is up, and raises TimeoutError in its place.

    As ``asyncio.timeout``, for a third of its processor time, which each request would spend three times.

    Args:
        seconds: from the beginning of the block.
    """

    __slots__ = ("_is_expired", "_seconds", "_task", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._is_expired = False

    def __enter__(self) -> TimeLimit:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._expire)
        return self

    def restart(self, seconds: float) -> None:
        """Gives the block so many seconds from now on."""
        self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._expire)

    def _expire(self) -> None:
        self._is_expired = True
        self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._timer.cancel()
        if self._is_expired and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise TimeoutError from error
