"""Images that cannot be read: the first one ends the training, or each is omitted and counted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm

from dhvt.errors import DataError


class BrokenImages:
    """The messages about broken images so far.

    Args:
        policy: ``stop`` at the first, or ``skip`` them.
        known: messages about images that were found broken before the first step, and are reported already.
    """

    def __init__(self, policy: Literal["stop", "skip"], accelerator: Accelerator, known: Iterable[str] = ()) -> None:
        self.policy, self.accelerator = policy, accelerator
        self._messages = set(known)

    def __len__(self) -> int:
        return len(self._messages)

    def report(self, *messages: str) -> None:
        """Takes note of messages, and prints those that are new, in whichever process they came up.

        Raises:
            DataError: with the policy ``stop``.
        """
        if messages and self.policy == "stop":
            raise DataError(messages[0])
        for message in set(messages) - self._messages:
            tqdm.write(f"omitted: {message}")
        self._messages.update(messages)

    def gather(self) -> None:
        """Adds those of the other processes; all of them have to call it."""
        if self.accelerator.num_processes > 1:
            self._messages = set(gather_object(sorted(self._messages)))
