"""The servers that benchmarks compare: how each is started, watched and ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import psutil

from load import Upload

BENCHMARKS = Path(__file__).parent
ROOT = BENCHMARKS.parent
START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 15


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A server, and how an image is sent to it.

    Args:
        arguments: for Python; ``{port}`` is filled in.
        package: that must be installed.
        upload: ``raw`` or ``multipart``.
        folder: to start in.
    """

    arguments: str
    package: str
    path: str
    upload: str
    folder: Path = BENCHMARKS
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def installed(self) -> bool:
        return find_spec(self.package) is not None


_OURS = {"arguments": "-m bentoml serve --host 127.0.0.1 --port {port}", "package": "bentoml", "folder": ROOT}

_MOSEC = {
    "arguments": "-m peers.mosec --address 127.0.0.1 --port {port} --timeout 30000 --log-level warning",
    "package": "mosec",
    "path": "/inference",
    "upload": "raw",
}
_LITSERVE = {"arguments": "-m peers.litserve --port {port}", "package": "litserve", "path": "/predict", "upload": "multipart"}
_PLAIN = {"environment": {"PEER_ENGINE": "plain"}}

CONTENDERS = {
    "dhvt (raw)": Contender(path="/classify", upload="raw", **_OURS),
    "dhvt (multipart)": Contender(path="/classify", upload="multipart", **_OURS),
    "mosec": Contender(**_MOSEC),
    "mosec (plain engine)": Contender(**_MOSEC, **_PLAIN),
    "litserve": Contender(**_LITSERVE),
    "litserve (plain engine)": Contender(**_LITSERVE, **_PLAIN),
    "bentoml": Contender(
        arguments="-m bentoml serve peers.bentoml:Front --host 127.0.0.1 --port {port}",
        package="bentoml",
        path="/classify",
        upload="multipart",
    ),
    "fastapi": Contender(
        arguments="-m uvicorn peers.fastapi:app --host 127.0.0.1 --port {port} --no-access-log",
        package="fastapi",
        path="/classify",
        upload="multipart",
    ),
}


class Server:
    """A running contender and all processes that it has started."""

    def __init__(self, process: subprocess.Popen[bytes], url: str) -> None:
        self.url = url
        self._process = process
        self._root = psutil.Process(process.pid)

    def processes(self) -> list[psutil.Process]:
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu_s(self) -> float:
        """Processor seconds that its living processes have used."""
        total = 0.0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def memory_mib(self) -> float:
        """Proportional set size of all processes: what they share is counted once."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total / 2**20

    @contextmanager
    def watching_memory(self, interval_s: float = 1.0) -> Iterator[list[float]]:
        """Collects :meth:`memory_mib` while the block runs."""
        samples: list[float] = []
        done = threading.Event()

        def watch() -> None:
            while not done.wait(interval_s):
                samples.append(self.memory_mib())

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield samples
        finally:
            done.set()
            thread.join()
            samples.append(self.memory_mib())

    def wait_until_ready(self, upload: Upload, log: Path) -> None:
        """Returns when an image is answered with 200.

        Raises:
            RuntimeError: the server ended, or is not ready after two minutes; with the end of its log.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                response = ask(self.url, upload)
            except httpx.TransportError:
                pass
            else:
                if response.status_code == 200:
                    return
                if response.status_code in (400, 404, 415, 422):
                    raise RuntimeError(f"the server does not take the upload: {response.status_code} {response.text[:300]}")
            time.sleep(0.2)
        state = "is not ready" if self._process.poll() is None else f"ended with {self._process.returncode}"
        raise RuntimeError(f"the server {state}; its log ends with\n{log.read_text(errors='replace')[-3000:]}")

    def stop(self) -> None:
        """Ends every process, gently first."""
        processes = self.processes()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        _, alive = psutil.wait_procs(processes, STOP_TIMEOUT_S)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()


def machine_cpu_s() -> float:
    """Processor seconds that this machine has spent on anything, a hypervisor's other guests included."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)


def ask(url: str, upload: Upload) -> httpx.Response:
    """One request, on a connection of its own."""
    return httpx.post(url, content=upload.body, headers={"Content-Type": upload.content_type}, timeout=30)


def top_label(response: httpx.Response) -> str | None:
    """The first label of an answer, None for an error."""
    return response.json()["predictions"][0]["label"] if response.status_code == 200 else None


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running(contender: Contender, upload: Upload, folder: Path, **settings: str) -> Iterator[Server]:
    """Starts a contender with some ``DHVT_*`` settings, gives it when it is ready, and ends it.

    Args:
        upload: that readiness is tried with.
        folder: for its log.
    """
    port = _free_port()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"} | contender.environment | settings
    command = [sys.executable, *contender.arguments.format(port=port).split()]
    log = folder / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=contender.folder, env=environment, stdout=file, stderr=file, start_new_session=True
        )
    server = Server(process, f"http://127.0.0.1:{port}{contender.path}")
    try:
        server.wait_until_ready(upload, log)
        yield server
    finally:
        server.stop()


def measure_ceiling(model: Path, seconds: float) -> dict[str, Any]:
    """What benchmarks/ceiling.py prints; in a process of its own, so that no engine is in this one."""
    command = [sys.executable, str(BENCHMARKS / "ceiling.py"), "--model", str(model), "--seconds", str(seconds)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    ceiling: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return ceiling
