"""A function of each image's index, computed by threads: reading, hashing and decoding release the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TypeVar

T = TypeVar("T")

_THREADS = 8
_CHUNK = 64  # indices that a thread takes at once


def map_in_threads(
    function: Callable[[int], T], indices: Sequence[int], on_progress: Callable[[int], None] | None = None
) -> Iterator[T]:
    """Yields the function's results in order.

    Args:
        on_progress: called with the number of indices done since the last call.
    """

    def compute(start: int) -> list[T]:
        return [function(index) for index in indices[start : start + _CHUNK]]

    def report(results: list[T]) -> list[T]:
        if on_progress is not None:
            on_progress(len(results))
        return results

    with ThreadPoolExecutor(_THREADS) as pool:
        yield from chain.from_iterable(map(report, pool.map(compute, range(0, len(indices), _CHUNK))))
