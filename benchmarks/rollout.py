"""What clients notice while a server is killed and while a new model is put into all servers, behind HAProxy.

    python benchmarks/rollout.py --plot rollout.png

Three servers of one thread each on this machine, behind HAProxy with ``deploy/haproxy.cfg``. wrk finds the rate that they
sustain together; then requests are sent at 60 % of it, by the clock, whether or not earlier ones were answered. Meanwhile

1. ``kill``: one server gets SIGKILL, and is started again at once, as a supervisor would;
2. ``roll``: one server after the other is taken out of HAProxy, ended with SIGTERM, and started with another model.

Each lasts until HAProxy counts all servers as up again. A request is ``lost`` when its answer is not 200. Servers that start
take processor time from those that answer, so latencies are those of a machine that has no processors to spare.
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from contenders import ask
from dhvt.artifact import load_artifact, write_card
from dhvt.engines.settings import BUNDLED_MODEL
from dhvt.hardware.cpus import available_cpus, processor_name
from fleet import BACKEND, DRAIN_S, MAX_REPLICAS, Proxy, Replica, wait_until
from load import Upload, closed_loop, make_upload, require_wrk, sample_image
from overload import ACCEPTED, Answer, OpenLoop, percentiles

EVENTS = ("kill", "roll")
CLIENTS = 16
MAX_CONNECTIONS = 500


@dataclass
class Traffic:
    """Requests of an open loop in a process of its own.

    Args:
        began: of the clock ``time.perf_counter``, which all processes share.
        answers: in the order of their arrival.
        unsent: requests that were due while too many others were unanswered.
    """

    began: float = 0.0
    answers: list[Answer] = field(default_factory=list)
    unsent: int = 0

    def between(self, begin: float, end: float) -> list[Answer]:
        """The answers to requests that were due in this time."""
        return [answer for answer in self.answers if begin <= answer.due_s + self.began < end]


def generate(url: str, upload: Upload, rate: float, limit_s: float, connection: Connection) -> None:
    """Runs in a process of its own: sends until a message comes, then sends what became of the requests."""
    asyncio.run(_generate(OpenLoop(url, upload, rate=rate, seconds=limit_s, max_connections=MAX_CONNECTIONS), connection))


async def _generate(loop: OpenLoop, connection: Connection) -> None:
    began = time.perf_counter()
    sending = asyncio.create_task(loop.run())
    while not connection.poll() and not sending.done():
        await asyncio.sleep(0.1)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})  # requests that are not answered yet
    connection.send((began, loop.answers, loop.unsent))


@contextmanager
def sending(url: str, upload: Upload, rate: float, limit_s: float) -> Iterator[Traffic]:
    """Sends requests while the block runs; what became of them is there after it."""
    traffic, context = Traffic(), get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=generate, args=(url, upload, rate, limit_s, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield traffic
        ours.send("stop")
        traffic.began, traffic.answers, traffic.unsent = ours.recv()
        process.join(10)
    finally:
        process.kill()


def kill_one(replica: Replica, model: Path, proxy: Proxy) -> None:
    """SIGKILL, and a start."""
    replica.kill()
    wait_until(lambda: not proxy.is_up(replica.name), 30, f"HAProxy does not see that {replica.name} is gone")
    replica.start(model)
    proxy.wait_until_up(replica.name)


def roll_one(replica: Replica, model: Path, proxy: Proxy) -> None:
    """The steps of ``deploy/roll.sh``."""
    server = f"{BACKEND}/{replica.name}"
    proxy.command(f"set server {server} state drain")
    wait_until(lambda: proxy.connections(replica.name) == 0, DRAIN_S, f"{replica.name} still has requests")
    replica.stop()
    replica.start(model)
    proxy.command(f"set server {server} health down")  # until its checks succeed
    proxy.command(f"set server {server} state ready")
    proxy.wait_until_up(replica.name)


@contextmanager
def timed(name: str, spans: dict[str, tuple[float, float]]) -> Iterator[None]:
    """Notes when the block began and ended."""
    begin = time.perf_counter()
    print(name, file=sys.stderr)
    yield
    spans[name] = (begin, time.perf_counter())


def renamed(model: Path, folder: Path) -> Path:
    """A copy of a model folder with another name on its card."""
    copy = Path(shutil.copytree(model, folder / "next"))
    card = load_artifact(copy).card
    write_card(copy, replace(card, name=f"{card.name}_next"))
    return copy


def summarise(answers: list[Answer]) -> dict[str, Any]:
    """How many were lost, and the latency of the others."""
    outcomes = Counter(answer.outcome for answer in answers)
    return {
        "sent": len(answers),
        "lost": len(answers) - outcomes[ACCEPTED],
        **percentiles([answer.latency_ms for answer in answers if answer.outcome == ACCEPTED]),
        "outcomes": dict(sorted(outcomes.items())),
    }


def draw(traffic: Traffic, spans: dict[str, tuple[float, float]], path: Path) -> None:
    """Each request's latency over time, with the time of the kill and of the roll shaded."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4))
    axes = figure.subplots()
    for ours, colour, label in ((True, "tab:blue", "200"), (False, "tab:red", "lost")):
        group = [answer for answer in traffic.answers if (answer.outcome == ACCEPTED) is ours]
        axes.scatter([a.due_s for a in group], [a.latency_ms for a in group], s=3, color=colour, label=label)
    for (name, (begin, end)), colour in zip(spans.items(), ("tab:grey", "tab:orange", "tab:green"), strict=False):
        axes.axvspan(begin - traffic.began, end - traffic.began, color=colour, alpha=0.15, label=name)
    axes.set(xlabel="s", ylabel="latency, ms", yscale="log", title=processor_name())
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right")
    figure.savefig(path, bbox_inches="tight", dpi=150)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, choices=(2, 3), default=MAX_REPLICAS, help="servers")
    parser.add_argument("--share", type=float, default=0.6, help="of the sustained rate, to offer")
    parser.add_argument("--rate", type=float, help="requests per second to offer; the sustained rate is then not measured")
    parser.add_argument("--events", nargs="+", choices=EVENTS, default=EVENTS, help="default: both")
    parser.add_argument("--steady-s", type=float, default=8, help="seconds before and after each event")
    parser.add_argument("--limit-s", type=int, default=300, help="seconds after which all is given up")
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL, help="model folder; default: the bundled one")
    parser.add_argument("--next-model", type=Path, help="model folder to roll out; default: the first under another name")
    parser.add_argument("--out", type=Path, help="file for the JSON line too")
    parser.add_argument("--plot", type=Path, help="image of latencies over time, .png or .svg")
    args = parser.parse_args()
    args.model = args.model.resolve()
    return args


def give_up(*_: object) -> None:
    """Ends the program, and with it all that it has started."""
    sys.exit("stopped: a signal, or longer than --limit-s")


def start_all(args: argparse.Namespace, folder: Path, upload: Upload, stack: ExitStack) -> tuple[list[Replica], Proxy]:
    """The servers and HAProxy, all up; ``stack`` ends them."""
    replicas = [Replica(f"dhvt-{number + 1}", folder) for number in range(args.replicas)]
    for replica in replicas:
        replica.start(args.model)
        stack.callback(replica.kill)
        if replica is replicas[0]:
            replica.wait_until_ready(upload)  # so that the others find its probes' results
    for replica in replicas[1:]:
        replica.wait_until_ready(upload)
    proxy = Proxy(replicas, folder)
    stack.callback(proxy.stop)
    wait_until((folder / "admin.sock").exists, 10, "HAProxy has not started")
    for replica in replicas:
        proxy.wait_until_up(replica.name)
    return replicas, proxy


def run_events(
    args: argparse.Namespace, replicas: list[Replica], proxy: Proxy, next_model: Path, spans: dict[str, tuple[float, float]]
) -> None:
    """What happens while requests are sent; ``spans`` gets when."""
    time.sleep(1)  # the generator starts
    with timed("steady", spans):
        time.sleep(args.steady_s)
    if "kill" in args.events:
        with timed("kill", spans):
            kill_one(replicas[0], args.model, proxy)
        time.sleep(args.steady_s)
    if "roll" in args.events:
        with timed("roll", spans):
            for replica in replicas:
                roll_one(replica, next_model, proxy)
        time.sleep(args.steady_s)


def measure(args: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], Traffic, dict[str, tuple[float, float]]]:
    """The JSON line's figures, and what the plot shows."""
    upload = make_upload("raw", sample_image())
    spans: dict[str, tuple[float, float]] = {}
    with ExitStack() as stack:
        replicas, proxy = start_all(args, folder, upload, stack)
        next_model = args.next_model.resolve() if args.next_model else renamed(args.model, folder)
        sustained = None
        if args.rate is None:
            load = closed_loop(proxy.url, upload, folder, clients=CLIENTS, seconds=6)
            sustained = (load.answers - load.not_ok) / load.seconds
        rate = args.rate or args.share * sustained
        with sending(proxy.url, upload, rate, args.limit_s) as traffic:
            run_events(args, replicas, proxy, next_model, spans)
        names = sorted({ask(f"{replica.url}/classify", upload).json()["model"] for replica in replicas})
        counters = proxy.counters()
    total = summarise(traffic.answers)
    figures = {
        "replicas": args.replicas,
        "sustained_per_s": sustained and round(sustained, 1),
        "offered_per_s": round(rate, 1),
        **total,
        "unsent": traffic.unsent,
        **{
            name: {"seconds": round(end - begin, 1), **summarise(traffic.between(begin, end))}
            for name, (begin, end) in spans.items()
        },
        "proxy": counters,
        "models_afterwards": names,
    }
    return figures, traffic, spans


def main() -> None:
    args = parse_arguments()
    if shutil.which("haproxy") is None:
        raise SystemExit("haproxy is needed: apt install haproxy")
    if args.rate is None:
        require_wrk()
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, give_up)  # so that all that was started is ended
    signal.alarm(args.limit_s)
    with tempfile.TemporaryDirectory(prefix="dhvt-") as temporary:
        figures, traffic, spans = measure(args, Path(temporary))
    line = {"benchmark": "rollout", **figures, "processor": processor_name(), "processors": available_cpus()}
    text = json.dumps(line)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")
    if args.plot:
        draw(traffic, spans, args.plot)


if __name__ == "__main__":
    main()
