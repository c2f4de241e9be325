"""A real ``bentoml serve``."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from dhvt.artifact import Artifact, load_artifact
from dhvt.engines import Engine, open_engine
from tests.conftest import draw, encode

ROOT = Path(__file__).resolve().parents[2]
PNG = encode(draw(0, 1))


def free_port() -> int:
    """Below the range from which the system gives ports to others, who might take it before the server does.

    Another process of the same test run takes others. The system draws: training seeds Python's generator in both alike.
    """
    process, processes = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]), os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")
    ports = range(20_000 + process, 32_000, int(processes))
    while True:
        port = random.SystemRandom().choice(ports)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


@contextmanager
def serving(log: Path, bento: str = ".", cwd: Path = ROOT, **settings: str) -> Iterator[str]:
    """``bentoml serve`` with some ``DHVT_*`` settings; gives its address when it is ready.

    Unless the test says otherwise with one engine, so that the engines are not measured, and the model reloaded, during it.
    """
    port = free_port()
    settings = {"DHVT_ENGINE": "openvino:fp32"} | settings
    command = [sys.executable, "-m", "bentoml", "serve", bento, "--host", "127.0.0.1", "--port", str(port)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DHVT_")} | settings
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=cwd, env=environ, stdout=file, stderr=file, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url, process, log)
        yield url
    finally:
        end_server(process)


def end_server(process: subprocess.Popen[bytes]) -> None:
    """With SIGTERM, as an operator does; what still runs of it 20 s later is killed. A test may have ended it."""
    workers = []  # each has a session of its own
    with suppress(psutil.NoSuchProcess):
        workers = psutil.Process(process.pid).children(recursive=True)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for worker in workers:
        with suppress(psutil.NoSuchProcess):
            worker.kill()


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}:\n{log.read_text()}")
        try:
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise TimeoutError(log.read_text())


def classify(url: str, **options: Any) -> httpx.Response:
    """Asks for one image."""
    return httpx.post(f"{url}/classify", files={"image": PNG}, timeout=30, **options)


def read_log_line(log: Path, request_id: str) -> dict[str, Any]:
    """The access log's entry of a request; lines are written a moment after the response."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if f'"request_id": "{request_id}"' in line:
                entry: dict[str, Any] = json.loads(line[line.index("{") :])
                return entry
        time.sleep(0.02)
    raise TimeoutError(log.read_text())


def worker_pids(url: str) -> list[int]:
    """The processes that listen, less the one that started them."""
    port = int(url.rsplit(":", 1)[1])
    listening = {c.pid for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port and c.pid}
    parents = {psutil.Process(pid).ppid() for pid in listening}
    return sorted(listening - parents) or sorted(
        child.pid
        for pid in listening
        for child in psutil.Process(pid).children()
        if "worker.service" in " ".join(child.cmdline())
    )


def in_flight(url: str) -> float:
    """What the server counts."""
    lines = httpx.get(f"{url}/metrics", timeout=30).text.splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith("dhvt_requests_in_flight ")), 0)


@contextmanager
def load(url: str, headers: dict[str, str] | None = None) -> Iterator[list[Any]]:
    """Clients that ask without a pause; gives their status codes and failures."""
    outcomes: list[Any] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=60, headers=headers) as client:
            while not stop.is_set():
                try:
                    outcomes.append(client.post(f"{url}/classify", files={"image": PNG}).status_code)
                except httpx.TransportError as error:
                    outcomes.append(error)
                    time.sleep(0.05)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield outcomes
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.fixture(scope="session")
def server(artifact_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The small model, served."""
    with serving(tmp_path_factory.mktemp("server") / "log", DHVT_MODEL=str(artifact_path)) as url:
        yield url


class RecordingEngine:
    """A real engine that notes its batch sizes, fails on an image that is all white, and waits while it is held."""

    concurrency = 1
    preferred_batch_size: int | None = None

    def __init__(self, engine: Engine) -> None:
        self.engine, self.name, self.precision = engine, engine.name, engine.precision
        self.batches: list[int] = []
        self.called, self.free = threading.Event(), threading.Event()
        self.free.set()

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.called.set()
        assert self.free.wait(30)
        self.batches.append(len(images))
        if (images == 255).all(axis=(1, 2, 3)).any():
            raise RuntimeError("white")
        return self.engine.predict(images)


@pytest.fixture(scope="module")
def artifact(artifact_path: Path) -> Artifact:
    return load_artifact(artifact_path)


@pytest.fixture
def engine(artifact: Artifact) -> RecordingEngine:
    return RecordingEngine(open_engine(artifact, threads=1).engine)


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    return [encode(draw(seed % 3, seed)) for seed in range(50)]
