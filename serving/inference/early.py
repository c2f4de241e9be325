"""A worker's model is loaded while BentoML's modules are imported, which takes as long and another processor."""

from __future__ import annotations

import os
import signal
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from threading import Event

from dhvt.artifact import Artifact
from dhvt.engines import Choice
from dhvt.errors import ConfigError
from serving.inference.model import open_model
from serving.settings import Settings

_CHECKED = "SERVING_MODEL_IS_CHECKED"
"""A variable of the workers' environment; not ``DHVT_…``, which are an operator's."""

_reload_asked = Event()
_opened: list[Future[tuple[Artifact, Choice]]] = []


def announce_workers() -> None:
    """Tells the processes that this one starts that they are workers, and that the model has been checked."""
    os.environ[_CHECKED] = "1"


def is_worker() -> bool:
    """Whether a process of this server has started this one; see :func:`announce_workers`."""
    return _CHECKED in os.environ


def note_reloads() -> Event:
    """From here on SIGHUP, which would end a process that is still starting, sets the event that this returns."""
    signal.signal(signal.SIGHUP, lambda number, frame: _reload_asked.set())
    return _reload_asked


def load_early(worker: int | None) -> None:
    """Begins to open the model in a thread, in a process that is a worker.

    Args:
        worker: see :meth:`Settings.device_of`.
    """
    if not is_worker():
        return
    note_reloads()  # before the model is read, so that none is missed
    try:
        settings = Settings.from_environ()
        settings = replace(settings, model=str(settings.model_path()))  # here: a tag imports BentoML's modules
    except ConfigError:  # it is reported when the server starts
        return
    executor = ThreadPoolExecutor(1, thread_name_prefix="load")
    _opened.append(executor.submit(open_model, settings, settings.device_of(worker)))
    executor.shutdown(wait=False)


def take_opened() -> Future[tuple[Artifact, Choice]] | None:
    """The model that :func:`load_early` opens; None where there is none. It is not kept, or it would outlive a reload."""
    return _opened.pop() if _opened else None
