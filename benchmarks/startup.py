"""Seconds from ``bentoml serve`` to the first 200 of ``/readyz``, and the memory of its processes, as one line of JSON.

Each run starts a server with an empty probe cache, has ``dhvt verify`` fill it, and starts the server again.

    python benchmarks/startup.py --runs 5 --out benchmarks/results/startup.json
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil

from dhvt.hardware.cpus import available_cpus, processor_name

ROOT = Path(__file__).resolve().parents[1]
POLL_S = 0.02
DEADLINE_S = 300


def main() -> None:
    """Prints the result, and writes it to ``--out``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--model", default="", help="default: the bundled one")
    parser.add_argument("--label", default="", help="what is measured, kept in the result")
    parser.add_argument("--out", type=Path, help="a JSON file, to which the result is added")
    args = parser.parse_args()
    runs = [run_once(args.model) for _ in range(args.runs)]
    result: dict[str, Any] = {"label": args.label, "processor": processor_name(), "cpus": available_cpus(), "runs": args.runs}
    result["load_average"] = round(os.getloadavg()[2], 1)
    for cache in ("empty", "warm"):
        for figure in runs[0][cache]:
            result[f"{cache}_{figure}"] = round(median(run[cache][figure] for run in runs), 2)
    print(json.dumps(result))
    if args.out is not None:
        old = json.loads(args.out.read_text()) if args.out.exists() else []
        args.out.write_text(json.dumps([*old, result], indent=1) + "\n")


def run_once(model: str) -> dict[str, dict[str, float]]:
    """One start from an empty cache and one from the cache that all measurements have filled."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DHVT_")}
        environment |= {"XDG_CACHE_HOME": cache} | ({"DHVT_MODEL": model} if model else {})
        empty = start(environment)
        subprocess.run(
            [sys.executable, "-m", "dhvt.cli", "verify"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True
        )
        return {"empty": empty, "warm": start(environment)}


def start(environment: dict[str, str]) -> dict[str, float]:
    """Starts a server, and ends it as soon as it is ready.

    Returns:
        Seconds to ready, processor seconds of all its processes until then, and MB of the parent and of the worker.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "bentoml", "serve", "--host", "127.0.0.1", "--port", str(port)]
    begin = time.perf_counter()
    server = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_until_ready(server, f"http://127.0.0.1:{port}/readyz", begin)
        seconds = time.perf_counter() - begin
        parent = psutil.Process(server.pid)
        workers = [child for child in parent.children() if "worker.service" in " ".join(child.cmdline())]
        times = [process.cpu_times() for process in (parent, *workers)]
        return {
            "ready_s": seconds,
            "cpu_s": sum(used.user + used.system for used in times) + times[0].children_user + times[0].children_system,
            "parent_mb": parent.memory_info().rss / 1e6,
            "worker_mb": max(worker.memory_info().rss for worker in workers) / 1e6,
        }
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def wait_until_ready(server: subprocess.Popen[bytes], url: str, begin: float) -> None:
    """Returns when the server is ready.

    Raises:
        RuntimeError: it ended, or took too long.
    """
    with httpx.Client(timeout=5) as client:
        while time.perf_counter() - begin < DEADLINE_S:
            if server.poll() is not None:
                raise RuntimeError(f"the server ended with {server.returncode}")
            try:
                if client.get(url).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(POLL_S)
    raise RuntimeError(f"the server was not ready within {DEADLINE_S} s")


if __name__ == "__main__":
    main()
