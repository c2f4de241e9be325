"""The server's processes: its workers, its port, its end."""

from __future__ import annotations

import asyncio
import atexit
import errno
import logging
import os
import shutil
import signal
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from threading import get_native_id
from types import FrameType

import click
import psutil

from dhvt.errors import ConfigError
from serving.private_apis import default_address, metrics_folder, set_metrics_folder

logger = logging.getLogger("bentoml.service.dhvt")

_WORKER_ID = "--worker-id"
_WORKING_THREADS_NICENESS = 5  # a third of the event loop's weight


def separate_metrics(*, is_worker: bool) -> None:
    """Gives this server a metrics folder of its own; BentoML has one for all, which the next server to start empties.

    Args:
        is_worker: whether another process of this server has made the folder. What an operator has set is none: it may be
            another server's, and BentoML would empty it.
    """
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR") if is_worker else None
    if folder is None:
        folder = tempfile.mkdtemp(prefix="dhvt-metrics-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    set_metrics_folder(folder)


def forget_dead_workers() -> None:
    """Removes what was in flight in workers that were killed, which would be counted for ever."""
    from prometheus_client.multiprocess import mark_process_dead  # not before the folder is set

    folder = Path(metrics_folder())
    for pid in {int(file.stem.rpartition("_")[2]) for file in folder.glob("gauge_live*.db")}:
        if not psutil.pid_exists(pid):
            mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]  # prometheus_client's own


def find_siblings(process: psutil.Process) -> list[psutil.Process]:
    """Returns the other workers of the same service under the same parent: their command lines differ in the id alone."""
    own = _without_worker_id(process.cmdline())
    siblings = []
    for other in psutil.Process(process.ppid()).children():
        with suppress(psutil.Error):  # one may be dying
            if other != process and _without_worker_id(other.cmdline()) == own:
                siblings.append(other)
    return siblings


def _without_worker_id(command: list[str]) -> list[str]:
    if _WORKER_ID not in command:
        return command
    index = command.index(_WORKER_ID)
    return command[:index] + command[index + 2 :]


def tell_siblings(number: signal.Signals) -> None:
    """Sends a signal to the other workers of this service that have begun to load a model.

    One that has not yet begun reads the newest in any case, and the signal would end it.
    """
    for sibling in find_siblings(psutil.Process()):
        with suppress(psutil.Error):
            if _handles(sibling.pid, number):
                sibling.send_signal(number)


def _handles(pid: int, number: signal.Signals) -> bool:
    """Whether a process does anything with a signal but end; true where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # another system, or it has ended
        return True
    caught = int(status.partition("\nSigCgt:")[2].split()[0], base=16)
    return bool(caught >> (number - 1) & 1)


def check_port() -> None:
    """Checks that the port that ``bentoml serve`` was asked for is free.

    Raises:
        ConfigError: another program has it.
    """
    context = click.get_current_context(silent=True)
    if context is None or "port" not in context.params:  # another command
        return
    default_host, default_port = default_address()
    host, port = context.params.get("host") or default_host, context.params["port"] or default_port
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(
                    f"port {port} is in use by another program; end that, or choose another: bentoml serve --port {port + 1}"
                ) from error
            if error.errno == errno.EACCES:
                raise ConfigError(f"port {port} needs more rights; choose one above 1023: bentoml serve --port 3000") from error


def bound_the_drain(seconds: float) -> None:
    """Limits how long the end takes after SIGTERM: uvicorn would wait for ever for a client that reads nothing."""
    loop, begin = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)

    def give_up() -> None:
        logger.warning("connections that are still open after %d s are closed", seconds)
        signal.raise_signal(signal.SIGINT)  # with which uvicorn no longer waits

    def drain(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(loop.call_later, seconds, give_up)
        if callable(begin):
            begin(number, frame)

    signal.signal(signal.SIGTERM, drain)


def prefer_event_loop() -> None:
    """Lowers the priority of all threads of this process but the calling one, the event loop's (on Linux).

    When more is asked than can be done, decoding and engine take all processors, and the event loop, which must read and
    refuse requests in time, would get the share of one thread among many.
    """
    with suppress(OSError):  # another system
        for thread in os.listdir("/proc/self/task"):
            if int(thread) != get_native_id():
                with suppress(OSError):  # it has ended
                    os.setpriority(os.PRIO_PROCESS, int(thread), _WORKING_THREADS_NICENESS)
