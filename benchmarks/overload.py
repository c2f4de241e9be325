"""What our server does when it is asked for several times what it can do.

    python benchmarks/overload.py --plot overload.png

First wrk's 64 clients, each waiting for its answer, find the rate that the server sustains. Then requests are sent at
four times that rate, whether or not earlier ones were answered: one connection per unanswered request, kept and used
again, up to ``--max-connections``. Then wrk measures again. A server that is fit for this goes on answering at about its
sustained rate, refuses the rest at once (429 or 503), needs no more memory, and is afterwards what it was before.

The generator is a process of its own on the same processors, so the rate during overload is less than before by what
generating, and reading and refusing uploads, cost; ``generator_cpu_share`` says how much the generator took.
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from tqdm import tqdm

from contenders import CONTENDERS, Server, ask, running, top_label
from dhvt.engines.settings import BUNDLED_MODEL
from dhvt.hardware.cpus import available_cpus, processor_name
from load import Upload, closed_loop, make_upload, require_wrk, sample_image

CLIENTS = 64
ACCEPTED = "200"
REFUSED = ("429", "503")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One request of the open loop.

    Args:
        due_s: since the start, when it had to be sent.
        late_ms: how much later the generator got round to it.
        latency_ms: from when it was due until the whole answer was there.
        outcome: the status, or the exception's name when the connection failed or nothing came in time.
    """

    due_s: float
    late_ms: float
    latency_ms: float
    outcome: str


class OpenLoop:
    """Sends requests at a fixed rate, by the clock.

    Args:
        rate: requests per second.
        seconds: how long.
        max_connections: more open requests than that are not sent, and counted as ``unsent``.
        timeout_s: of one answer.
    """

    def __init__(
        self, url: str, upload: Upload, *, rate: float, seconds: float, max_connections: int, timeout_s: float = 60
    ) -> None:
        address = urlsplit(url)
        self.host, self.port = str(address.hostname), int(address.port or 80)
        head = f"POST {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: {upload.content_type}\r\n"
        self.request = f"{head}Content-Length: {len(upload.body)}\r\n\r\n".encode() + upload.body
        self.rate, self.seconds, self.timeout_s = rate, seconds, timeout_s
        self.max_connections = max_connections
        self.answers: list[Answer] = []
        self.unsent = 0
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def run(self) -> None:
        """Sends, and waits for what is still unanswered."""
        pending: set[asyncio.Task[None]] = set()
        start = time.perf_counter()
        for index in range(round(self.rate * self.seconds)):
            due = start + index / self.rate
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            if len(pending) >= self.max_connections:
                self.unsent += 1
                continue
            task = asyncio.create_task(self._send(start, due))
            pending.add(task)
            task.add_done_callback(pending.discard)
        await asyncio.gather(*pending)
        for _, writer in self._idle:
            writer.close()

    async def _send(self, start: float, due: float) -> None:
        late_ms = 1e3 * (time.perf_counter() - due)
        try:
            outcome = await asyncio.wait_for(self._exchange(), self.timeout_s)
        except (TimeoutError, OSError, ValueError, EOFError) as error:
            outcome = type(error).__name__
        latency_ms = 1e3 * (time.perf_counter() - due)
        self.answers.append(Answer(due_s=due - start, late_ms=late_ms, latency_ms=latency_ms, outcome=outcome))

    async def _exchange(self) -> str:
        """One request on an idle connection, or a new one, which is kept when the server keeps it."""
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():  # else the server has closed it
                break
        else:
            reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(self.request)  # an early refusal is read although the server may not take the rest
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            await writer.drain()
        except BaseException:
            writer.close()
            raise
        if b"connection: close" in head:
            writer.close()
        else:
            self._idle.append((reader, writer))
        return head.split(b" ", 2)[1].decode()


def generate(url: str, upload: Upload, rate: float, seconds: float, max_connections: int) -> tuple[list[Answer], int, float]:
    """Runs in a process of its own; the answers, how many were not sent, and the process's own processor seconds."""
    loop = OpenLoop(url, upload, rate=rate, seconds=seconds, max_connections=max_connections)
    asyncio.run(loop.run())
    return loop.answers, loop.unsent, time.process_time()


def percentiles(values: list[float]) -> dict[str, float | None]:
    """The median and the 99th percentile."""
    if not values:
        return {"p50_ms": None, "p99_ms": None}
    return {"p50_ms": round(float(np.percentile(values, 50)), 2), "p99_ms": round(float(np.percentile(values, 99)), 2)}


def summarise(answers: list[Answer], seconds: float) -> dict[str, Any]:
    """Counts and latencies by what became of a request."""
    accepted = [answer.latency_ms for answer in answers if answer.outcome == ACCEPTED]
    refused = [answer.latency_ms for answer in answers if answer.outcome in REFUSED]
    outcomes = Counter(answer.outcome for answer in answers)
    last = max((answer.due_s + answer.latency_ms / 1e3 for answer in answers), default=seconds)
    return {
        "sent": len(answers),
        "accepted": len(accepted),
        "accepted_per_s": round(len(accepted) / max(last, seconds), 1),
        "accepted_latency": percentiles(accepted),
        "refused": len(refused),
        "refused_latency": percentiles(refused),
        "neither": sum(count for outcome, count in outcomes.items() if outcome not in (ACCEPTED, *REFUSED)),
        "outcomes": dict(sorted(outcomes.items())),
    }


def sustained(server: Server, upload: Upload, folder: Path, seconds: float) -> dict[str, float]:
    """The rate that waiting clients get."""
    load = closed_loop(server.url, upload, folder, clients=CLIENTS, seconds=seconds)
    return {
        "requests_per_s": round((load.answers - load.not_ok) / load.seconds, 1),
        "p50_ms": load.p50_ms,
        "p99_ms": load.p99_ms,
        "errors": load.not_ok + load.failed,
        "memory_mib": round(server.memory_mib(), 1),
    }


def overload(server: Server, upload: Upload, rate: float, args: argparse.Namespace) -> tuple[dict[str, Any], list[Answer]]:
    """The open loop, with the server's memory meanwhile."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool, server.watching_memory() as memory:
        start = time.perf_counter()
        future = pool.submit(generate, server.url, upload, rate, args.seconds, args.max_connections)
        answers, unsent, cpu_s = future.result()
        wall_s = time.perf_counter() - start
    figures = {"offered_per_s": round(rate, 1)} | summarise(answers, args.seconds)
    figures |= {
        "generator_late_p99_ms": percentiles([answer.late_ms for answer in answers])["p99_ms"],
        "unsent_for_want_of_connections": unsent,
        "peak_memory_mib": round(max(memory), 1),
        "generator_cpu_share": round(cpu_s / wall_s / available_cpus(), 3),
    }
    return figures, answers


def draw(answers: list[Answer], line: dict[str, Any], path: Path) -> None:
    """Answers per second by kind, over time, with the sustained rate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4))
    axes = figure.subplots()
    kinds = {
        "accepted": [answer for answer in answers if answer.outcome == ACCEPTED],
        "refused": [answer for answer in answers if answer.outcome in REFUSED],
        "neither": [answer for answer in answers if answer.outcome not in (ACCEPTED, *REFUSED)],
    }
    end = max((answer.due_s + answer.latency_ms / 1e3 for answer in answers), default=1)
    edges = np.arange(0, int(end) + 2)
    for name, group in kinds.items():
        counts, _ = np.histogram([answer.due_s + answer.latency_ms / 1e3 for answer in group], edges)
        axes.step(edges[:-1], counts, where="post", label=name)
    axes.axhline(line["before"]["requests_per_s"], color="grey", linestyle="--", label="sustained before")
    axes.axhline(line["during"]["offered_per_s"], color="grey", linestyle=":", label="offered")
    axes.set(xlabel="s", ylabel="answers/s", title=processor_name())
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, bbox_inches="tight", dpi=150)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contender", choices=CONTENDERS, metavar="NAME", default="dhvt (raw)",
                        help=f"default: ours, raw; {', '.join(map(repr, CONTENDERS))}")  # fmt: skip
    parser.add_argument("--times", type=float, default=4, help="the sustained rate, to offer")
    parser.add_argument("--seconds", type=float, default=30, help="of overload; a third of it before and after")
    parser.add_argument("--max-connections", type=int, default=2000, help="requests that may be unanswered at once")
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL, help="model folder; default: the bundled one")
    parser.add_argument("--out", type=Path, help="file for the JSON line too")
    parser.add_argument("--plot", type=Path, help="image of answers over time, .png or .svg")
    args = parser.parse_args()
    args.model = args.model.resolve()
    return args


def main() -> None:
    args = parse_arguments()
    require_wrk()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped
    contender = CONTENDERS[args.contender]
    upload = make_upload(contender.upload, sample_image())
    with (
        tqdm(total=4, desc="starting") as bar,
        tempfile.TemporaryDirectory() as temporary,
        running(contender, upload, Path(temporary), DHVT_MODEL=str(args.model)) as server,
    ):
        label = top_label(ask(server.url, upload))
        closed_loop(server.url, upload, Path(temporary), clients=CLIENTS, seconds=3)  # warms up
        results: dict[str, Any] = {}
        for step in ("before", "during", "after"):
            bar.set_description(step)
            bar.update()
            if step == "during":
                results[step], answers = overload(server, upload, args.times * results["before"]["requests_per_s"], args)
            else:
                results[step] = sustained(server, upload, Path(temporary), args.seconds / 3)
        same_label = top_label(ask(server.url, upload)) == label
        bar.update()
    line = {
        "benchmark": "overload",
        "contender": args.contender,
        **results,
        "accepted_over_sustained": round(results["during"]["accepted_per_s"] / results["before"]["requests_per_s"], 2),
        "after_over_before": round(results["after"]["requests_per_s"] / results["before"]["requests_per_s"], 2),
        "answers_the_same_afterwards": same_label,
        "seconds": args.seconds,
        "processor": processor_name(),
        "processors": available_cpus(),
    }
    text = json.dumps(line)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")
    if args.plot:
        draw(answers, line, args.plot)


if __name__ == "__main__":
    main()
