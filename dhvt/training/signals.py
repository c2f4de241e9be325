"""Stopping between two steps."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tqdm import tqdm


def leave_stopping_to_the_parent(worker: int) -> None:
    """Ignores SIGINT and SIGTERM in a process that decodes.

    Signals often go to all processes of a group, and the training process still needs the images for its last step.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a flag, which is read between steps; the second one interrupts at once."""

    def __init__(self) -> None:
        self.requested = False

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        tqdm.write("stopping after this step or validation; press Ctrl-C again to stop without a checkpoint")

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While this is entered, signals are caught."""
        previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
