"""Servers that are killed and started again, and HAProxy with ``deploy/haproxy.cfg`` before them."""

from __future__ import annotations

import contextlib
import csv
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from contenders import ROOT, START_TIMEOUT_S, Server
from load import Upload

CONFIGURATION = ROOT / "deploy" / "haproxy.cfg"
BACKEND = "dhvt"
MAX_REPLICAS = 3  # servers in haproxy.cfg
DRAIN_S = 30
UP = "2"  # srv_op_state of HAProxy's management guide: SRV_ST_RUNNING


class Replica:
    """One ``bentoml serve``, which can be killed, ended, and started again on the same port.

    Args:
        name: of the server in haproxy.cfg.
        folder: for its logs.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.port = name, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder / f"{name}.log"

    def start(self, model: Path) -> None:
        settings = {"DHVT_MODEL": str(model), "DHVT_WORKERS": "1", "DHVT_THREADS": "1", "DHVT_ACCESS_LOG": "off"}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DHVT_")} | settings
        environment |= {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
        command = [sys.executable, "-m", "bentoml", "serve", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--timeout-keep-alive", "75"]  # as in deploy/
        with self._log.open("wb") as file:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True
            )
        self._server = Server(self._process, f"{self.url}/classify")

    def wait_until_ready(self, upload: Upload) -> None:
        """Returns when an image is answered.

        Raises:
            RuntimeError: it ended or is not ready in time; with the end of its log.
        """
        self._server.wait_until_ready(upload, self._log)

    def kill(self) -> None:
        """SIGKILL to all its processes, as when a container runs out of memory."""
        processes = self._server.processes()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, 10)
        self._process.wait()

    def stop(self) -> None:
        """SIGTERM to the first process, as a container gets it; SIGKILL to what is left after the time for the drain."""
        processes = self._server.processes()
        with contextlib.suppress(psutil.NoSuchProcess):
            self._process.terminate()
        _, alive = psutil.wait_procs(processes, DRAIN_S)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()


class Proxy:
    """HAProxy with ``deploy/haproxy.cfg`` before some replicas.

    Args:
        replicas: up to three.
        folder: for its socket and log.
    """

    def __init__(self, replicas: list[Replica], folder: Path) -> None:
        self.port, self._socket, self._log = free_port(), folder / "admin.sock", folder / "haproxy.log"
        addresses = {f"SERVER_{number + 1}": "127.0.0.1:1" for number in range(MAX_REPLICAS)}  # where nothing listens
        addresses |= {f"SERVER_{number + 1}": f"127.0.0.1:{replica.port}" for number, replica in enumerate(replicas)}
        addresses |= {"ADMIN_ADDRESS": str(self._socket), "LISTEN_ADDRESS": f"127.0.0.1:{self.port}"}
        with self._log.open("wb") as file:
            command = ["haproxy", "-f", str(CONFIGURATION)]
            self._process = subprocess.Popen(command, env=os.environ | addresses, stdout=file, stderr=file)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/classify"

    def command(self, text: str) -> str:
        """Runs a command of HAProxy's runtime API and returns its output."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(self._socket))
            connection.sendall(f"{text}\n".encode())
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    def is_up(self, name: str) -> bool:
        """Whether requests are sent to this server."""
        rows = (line.split() for line in self.command(f"show servers state {BACKEND}").splitlines())
        return any(row[3] == name and row[5] == UP and row[6] == "0" for row in rows if len(row) > 6)

    def connections(self, name: str) -> int:
        """Requests that this server is at."""
        return int(self._statistics()[name]["scur"])

    def wait_until_up(self, name: str) -> None:
        wait_until(lambda: self.is_up(name), START_TIMEOUT_S, f"HAProxy does not count {name} as up")

    def counters(self) -> dict[str, int]:
        """What HAProxy had to do again, of all servers together."""
        total = self._statistics()["BACKEND"]
        names = {"retries": "wretr", "redispatches": "wredis", "connection_errors": "econ", "response_errors": "eresp"}
        return {name: int(total[column] or 0) for name, column in names.items()}

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _statistics(self) -> dict[str, dict[str, str]]:
        rows = csv.DictReader(self.command("show stat").lstrip("# ").splitlines())
        return {row["svname"]: row for row in rows if row["pxname"] == BACKEND}


def free_port() -> int:
    """Below the range from which the system gives ports to others, who might take it before the server does."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)  # training in the same process seeds the ordinary one
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def wait_until(condition: Callable[[], bool], seconds: float, message: str) -> None:
    """Returns when the condition holds.

    Raises:
        RuntimeError: it does not in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{message} after {seconds:.0f} s")
        time.sleep(0.1)
