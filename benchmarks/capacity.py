"""How many processors serve so many images a second: a simulation with measured service times, checked before it extrapolates.

    python benchmarks/capacity.py measure > benchmarks/results/capacity.json
    python benchmarks/capacity.py page

``measure`` takes the bundled model on processors of their own: one engine thread's time for a batch of each size; one server
on one processor, and two behind HAProxy on two, asked by 1, 8 and 64 clients that each wait for their answer. The processor
time of all but the engine, for each image, is what makes the simulation give one of these figures (one server, 8 clients); the
others it predicts. Then it says how many such servers take N images a second, arriving by chance, with a p99 of at most
:data:`P99_MS`. ``page`` writes the tables of ``docs/scaling.md``.

The simulation: a server has one processor, which its work shares equally: a thread that decodes one image after another (and
stands for HTTP), and one engine call at a time, on all images that were decoded until then, up to :data:`LARGEST_BATCH`.
HAProxy sends an image to the server with the fewest.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np

from dhvt import load_artifact
from dhvt.engines import open_engine
from dhvt.engines.settings import BUNDLED_MODEL
from dhvt.hardware.cpus import processor_name
from fleet import Proxy, Replica, wait_until
from load import closed_loop, make_upload, require_wrk, sample_image

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
LARGEST_BATCH = 32
BATCHES = (1, 2, 4, 8, 16, 32)
CLIENTS = (1, 8, 64)
FITTED = 8
"""Clients of one server whose figure fits the simulation."""

P99_MS = 100.0
TARGETS = (50, 100, 300, 1000, 3000)
ANSWERS = 20_000
"""Simulated requests for each figure."""


class SimulatedServer:
    """A server on one processor.

    Args:
        other_ms: processor time of all but the engine, for each image.
        engine_ms: of an engine call, by the size of its batch: ``(LARGEST_BATCH + 1,)``.
    """

    def __init__(self, other_ms: float, engine_ms: Sequence[float]) -> None:
        self._other_ms, self._engine_ms = other_ms, engine_ms
        self._encoded: deque[int] = deque()
        self._decoded: deque[int] = deque()
        self._decoding: tuple[int, float] | None = None  # a request, and the work that is left
        self._calling: tuple[list[int], float] | None = None
        self.waiting = 0

    def take(self, request: int) -> None:
        self.waiting += 1
        self._encoded.append(request)
        self._begin()

    def _begin(self) -> None:
        if self._decoding is None and self._encoded:
            self._decoding = self._encoded.popleft(), self._other_ms
        if self._calling is None and self._decoded:
            batch = [self._decoded.popleft() for _ in range(min(len(self._decoded), LARGEST_BATCH))]
            self._calling = batch, self._engine_ms[len(batch)]

    @property
    def next_ms(self) -> float:
        """When something ends, if nothing comes."""
        active = [work for _, work in filter(None, (self._decoding, self._calling))]
        return min(active) * len(active) if active else math.inf

    def advance(self, ms: float) -> list[int]:
        """Works so long, at most :attr:`next_ms`; returns the requests that are answered."""
        share = ms / max((self._decoding is not None) + (self._calling is not None), 1)
        answered: list[int] = []
        if self._decoding is not None:
            request, work = self._decoding
            self._decoding = (request, work - share) if work - share > 1e-9 else None
            if self._decoding is None:
                self._decoded.append(request)
        if self._calling is not None:
            batch, work = self._calling
            self._calling = (batch, work - share) if work - share > 1e-9 else None
            if self._calling is None:
                answered = batch
                self.waiting -= len(batch)
        self._begin()
        return answered


def simulate(
    servers: int, other_ms: float, engine_ms: Sequence[float], *, clients: int = 0, per_s: float = 0.0, answers: int = ANSWERS
) -> dict[str, float]:
    """Requests per second, and latencies, of so many clients that each wait, or of requests that come by chance.

    Args:
        clients: that each send their next request when they have their answer.
        per_s: requests per second, instead of clients.
    """
    rng = random.Random(0)
    fleet = [SimulatedServer(other_ms, engine_ms) for _ in range(servers)]
    now, next_arrival, sent = 0.0, math.inf, 0
    began: dict[int, float] = {}
    latencies: list[float] = []

    def send() -> None:
        nonlocal sent
        began[sent] = now
        least = min(server.waiting for server in fleet)
        rng.choice([server for server in fleet if server.waiting == least]).take(sent)
        sent += 1

    for _ in range(clients):
        send()
    if per_s:
        next_arrival = rng.expovariate(per_s / 1e3)
    while len(latencies) < answers:
        step = min(*(server.next_ms for server in fleet), next_arrival - now)
        now += step
        answered = [request for server in fleet for request in server.advance(step)]
        latencies += [now - began.pop(request) for request in answered]
        for _ in answered if clients else ():
            send()
        if now >= next_arrival - 1e-9:
            send()
            next_arrival = now + rng.expovariate(per_s / 1e3)
        if len(began) > 50 * servers * LARGEST_BATCH:  # more come than are answered
            return {"requests_per_s": 1e3 * len(latencies) / now, "p50_ms": math.inf, "p99_ms": math.inf}
    settled = latencies[answers // 10 :]
    return {
        "requests_per_s": 1e3 * len(latencies) / now,
        "p50_ms": float(np.percentile(settled, 50)),
        "p99_ms": float(np.percentile(settled, 99)),
    }


@contextmanager
def on_processor(number: int) -> Iterator[None]:
    """What is started in the block runs on this processor alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {number})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure_engine(name: str) -> dict[int, float]:
    """Median milliseconds of a call of one thread, by batch size."""
    with on_processor(0):
        artifact = load_artifact(BUNDLED_MODEL)
        engine = open_engine(artifact, name, threads=1, max_batch_size=LARGEST_BATCH).engine
        height, width = artifact.card.preprocess.size
        found = {}
        for size in BATCHES:
            images = np.random.default_rng(0).integers(0, 256, (size, height, width, 3), np.uint8)
            times = []
            for _ in range(40):
                start = time.perf_counter()
                engine.predict(images)
                times.append(1e3 * (time.perf_counter() - start))
            found[size] = median(times[5:])
    return found


def measure_servers(seconds: float, rounds: int) -> dict[str, Any]:
    """Requests per second and latencies of one server and of two."""
    upload = make_upload("raw", sample_image())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        replicas = [Replica(f"dhvt-{number + 1}", folder) for number in range(2)]
        for number, replica in enumerate(replicas):
            with on_processor(number):
                replica.start(BUNDLED_MODEL)
        for replica in replicas:
            replica.wait_until_ready(upload)
        info = httpx.get(f"{replicas[0].url}/info", timeout=10).json()
        proxy = Proxy(replicas, folder)
        try:
            wait_until((folder / "admin.sock").exists, 10, "HAProxy has not started")
            for replica in replicas:
                proxy.wait_until_up(replica.name)
            found: dict[str, dict[int, list[Any]]] = {"1": {}, "2": {}}
            for _ in range(rounds):
                for clients in CLIENTS:
                    for key, url in (("1", f"{replicas[0].url}/classify"), ("2", proxy.url)):
                        load = closed_loop(url, upload, folder, clients=clients, seconds=seconds)
                        assert not load.not_ok + load.failed
                        found[key].setdefault(clients, []).append((load.answers / load.seconds, load.p50_ms, load.p99_ms))
        finally:
            proxy.stop()
            for replica in replicas:
                replica.stop()
    names = ("requests_per_s", "p50_ms", "p99_ms")
    return {
        "engine": f"{info['engine']['name']}:{info['engine']['precision']}",
        "servers": {
            key: {
                clients: {name: median(values) for name, values in zip(names, zip(*runs, strict=True), strict=True)}
                for clients, runs in by.items()
            }
            for key, by in found.items()
        },
    }


def interpolate(measured: dict[int, float]) -> list[float]:
    """Milliseconds of a batch of each size up to the largest."""
    return [float(np.interp(size, list(measured), list(measured.values()))) for size in range(LARGEST_BATCH + 1)]


def fit_other(engine_ms: Sequence[float], requests_per_s: float) -> float:
    """The milliseconds of all but the engine with which one server gives :data:`FITTED` clients so many requests a second."""
    low, high = 0.0, 1e3 / requests_per_s
    for _ in range(20):
        middle = (low + high) / 2
        found = simulate(1, middle, engine_ms, clients=FITTED, answers=ANSWERS // 10)["requests_per_s"]
        low, high = (middle, high) if found > requests_per_s else (low, middle)
    return (low + high) / 2


def plan(other_ms: float, engine_ms: Sequence[float]) -> list[dict[str, Any]]:
    """The fewest servers of one processor for each target."""
    most = simulate(1, other_ms, engine_ms, clients=max(CLIENTS))["requests_per_s"]
    found = []
    for target in TARGETS:
        servers = math.ceil(target / most)
        while (result := simulate(servers, other_ms, engine_ms, per_s=target))["p99_ms"] > P99_MS:
            servers += 1
        found.append({"images_per_s": target, "servers": servers, "p50_ms": result["p50_ms"], "p99_ms": result["p99_ms"]})
    return found


def measure(args: argparse.Namespace) -> None:
    require_wrk()
    found = measure_servers(args.seconds, args.rounds)
    engine = measure_engine(found["engine"])
    engine_ms = interpolate(engine)
    other_ms = fit_other(engine_ms, found["servers"]["1"][FITTED]["requests_per_s"])
    simulated = {}
    for servers in found["servers"]:
        simulated[servers] = {clients: simulate(int(servers), other_ms, engine_ms, clients=clients) for clients in CLIENTS}
    facts: dict[str, Any] = {"benchmark": "capacity", "model": BUNDLED_MODEL.name, "engine": found["engine"]}
    facts |= {
        "processor": processor_name(),
        "date": str(datetime.now(UTC).date()),
        "seconds": args.seconds,
        "rounds": args.rounds,
    }
    facts |= {"engine_ms": engine, "other_ms": other_ms, "measured": found["servers"], "simulated": simulated}
    facts |= {"p99_ms": P99_MS, "plan": plan(other_ms, engine_ms)}
    print(json.dumps(facts))


def write_page() -> None:
    """Replaces the tables of the page by those of the results."""
    found = json.loads((RESULTS / "capacity.json").read_text())
    rows = ["| servers of one processor | clients | images/s | simulated | p99 | simulated |", "|---|---|---|---|---|---|"]
    for servers, by in found["measured"].items():
        for clients, real in by.items():
            own = found["simulated"][servers][clients]
            rates = f"{real['requests_per_s']:.0f} | {own['requests_per_s']:.0f}"
            rows.append(f"| {servers} | {clients} | {rates} | {real['p99_ms']:.0f} ms | {own['p99_ms']:.0f} ms |")
    check = "\n".join(rows)
    rows = [f"| images/s | servers for a p99 of at most {found['p99_ms']:.0f} ms | busy | p50 | p99 |", "|---|---|---|---|---|"]
    most = found["measured"]["1"][str(max(CLIENTS))]["requests_per_s"]
    for row in found["plan"]:
        busy = row["images_per_s"] / most / row["servers"]
        times = f"{row['p50_ms']:.0f} ms | {row['p99_ms']:.0f} ms"
        rows.append(f"| {row['images_per_s']:,} | {row['servers']} | {busy:.0%} | {times} |")
    text = PAGE.read_text()
    for name, table in (("check", check), ("plan", "\n".join(rows)), ("cost", _describe_cost(found, most))):
        head, mark, rest = text.partition(f"<!-- {name}: written by benchmarks/capacity.py -->\n")
        assert mark, name
        text = f"{head}{mark}{table}\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
    PAGE.write_text(text)


def _describe_cost(found: dict[str, Any], most: float) -> str:
    engine, full = found["engine_ms"], found["engine_ms"][str(LARGEST_BATCH)] / LARGEST_BATCH
    return (
        f"Measured on {found['date']} with one {found['processor']} processor for each server, {found['model']} in "
        f"{found['engine']}, a JPEG of 640×480: {engine['1']:.2f} ms in the engine for an image alone, {full:.2f} ms in "
        f"batches of {LARGEST_BATCH}, and {found['other_ms']:.2f} ms of processor time for decoding, resizing and HTTP. Such a "
        f"server gives at most {most:.0f} images/s, so that a million images cost {1e6 / most / 3600:.1f} processor hours."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "page"])
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.what == "measure":
        measure(args)
    else:
        write_page()


if __name__ == "__main__":
    main()
