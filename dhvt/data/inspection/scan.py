"""The facts of all images of a source, gathered by several processes."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from dhvt.data.inspection.facts import ImageFacts, gather_facts
from dhvt.data.sources import ImageSource
from dhvt.errors import DataError, ImageError

_CHUNK = 32  # images that a process takes at once
_FEW = 500
"""So many images are read here: starting processes takes longer."""

_sources: list[ImageSource] = []
"""In a process of the pool: the source."""


def scan(source: ImageSource, processes: int, on_progress: Callable[[int], None]) -> list[ImageFacts]:
    """The facts of each image, in order.

    Args:
        on_progress: called with the number of images done since the last call.

    Raises:
        DataError: a process was killed, as when a decoder crashed or memory ran out.
    """
    facts: list[ImageFacts] = []
    chunks = _scan_here(source) if processes == 1 or len(source) <= _FEW else _scan_in_processes(source, processes)
    for chunk in chunks:
        facts += chunk
        on_progress(len(chunk))
    return facts


def _scan_here(source: ImageSource) -> Iterator[list[ImageFacts]]:
    for start in range(0, len(source), _CHUNK):
        yield _scan_chunk(source, start)


def _scan_in_processes(source: ImageSource, processes: int) -> Iterator[list[ImageFacts]]:
    # A forked process has the source already; of a large Parquet file that saves a copy.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    starts = range(0, len(source), _CHUNK)
    with ProcessPoolExecutor(processes, context, _start_process, (source,)) as pool:
        try:
            yield from pool.map(_scan_from, starts)
        except BrokenProcessPool as error:
            raise DataError(
                f"a process that read {source.origin} was killed, by the system or a decoder's crash; repeat it with "
                "--num-workers 1, and watch its memory"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start_process(source: ImageSource) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent ends the pool
    _sources[:] = [source]


def _scan_from(start: int) -> list[ImageFacts]:
    return _scan_chunk(_sources[0], start)


def _scan_chunk(source: ImageSource, start: int) -> list[ImageFacts]:
    return [_scan_one(source, index) for index in range(start, min(start + _CHUNK, len(source)))]


def _scan_one(source: ImageSource, index: int) -> ImageFacts:
    try:
        return gather_facts(source.read(index))
    except ImageError as error:
        return ImageFacts(error=str(error))
