"""Requests/s, latency, processor time and memory of our server beside others, over numbers of clients.

    python benchmarks/servers.py --plot servers.png

All contenders serve the same model with the same engine, decoding and answer, and get the same photograph of 640×480:

    dhvt (raw), dhvt (multipart)   ``bentoml serve`` in this repository, the image as the body and in a form
    mosec                          raw; processes that decode, one that predicts in batches
    litserve                       a form; one worker, which decodes in threads and predicts in batches
    bentoml                        a form; BentoML's own batching, behind a service that decodes
    fastapi                        a form; a thread per image, no batches

mosec and litserve are measured twice: with our engine lent to them, so that only what lies around it differs, and as
``… (plain engine)``, where they call OpenVINO as its documentation has it, with the same graph and precision. Their files
are in benchmarks/peers, what they need in benchmarks/requirements.txt; one that is not installed is left out.

They take turns: each is started, warmed up, measured with every number of clients and stopped, then the next; the
order changes from round to round, and figures are medians of the rounds. How much of the processors other programs took
meanwhile is reported; a measurement that they disturbed is repeated, and a round in which that did not help is left out
of the medians where there is a better one.

The load is made by wrk: so many connections, each of which sends its next request when it has its answer. wrk runs on
the same processors as the server, and its own processor time is reported. Before a server is measured, and
afterwards, the label in an answer is compared with what the engine says.

``ceiling`` is what decoding and the engine alone could do (see benchmarks/ceiling.py), measured in the same rounds.
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from contenders import CONTENDERS, Contender, Server, ask, machine_cpu_s, measure_ceiling, running, top_label
from dhvt.engines.settings import BUNDLED_MODEL
from dhvt.hardware.cpus import available_cpus, processor_name
from load import Upload, closed_loop, make_upload, require_wrk, sample_image

Figures = dict[str, float]
PACKAGES = ("bentoml", "mosec", "litserve", "fastapi", "uvicorn", "openvino", "onnxruntime", "pillow", "numpy")


def check_label(server: Server, upload: Upload, expected: str) -> None:
    """Raises RuntimeError when the server answers with something else than the engine."""
    response = ask(server.url, upload)
    if top_label(response) != expected:
        raise RuntimeError(f"expected the label {expected!r}, received {response.status_code}: {response.text[:300]}")


def measure_load(server: Server, upload: Upload, folder: Path, clients: int, seconds: float) -> Figures:
    """One server under one load."""
    before, machine_before = server.cpu_s(), machine_cpu_s()
    with server.watching_memory() as memory:
        load = closed_loop(server.url, upload, folder, clients=clients, seconds=seconds)
        used, machine_used = server.cpu_s() - before, machine_cpu_s() - machine_before
    others = max(machine_used - used - load.own_cpu_s, 0) / (load.seconds * (os.cpu_count() or 1))
    return {
        "requests_per_s": round((load.answers - load.not_ok) / load.seconds, 1),
        "p50_ms": load.p50_ms,
        "p99_ms": load.p99_ms,
        "errors": load.not_ok + load.failed,
        "cpu_ms_per_request": round(1e3 * used / max(load.answers, 1), 2),
        "client_cpu_ms_per_request": round(1e3 * load.own_cpu_s / max(load.answers, 1), 3),
        "peak_memory_mib": round(max(memory), 1),
        "share_of_processors_taken_by_others": round(others, 3),
    }


def measure_undisturbed(server: Server, upload: Upload, folder: Path, clients: int, args: argparse.Namespace) -> Figures:
    """:func:`measure_load`, up to ``--tries`` times while other programs take more than ``--disturbance``; the least
    disturbed."""
    tries: list[Figures] = []
    while len(tries) < args.tries and all(entry["share_of_processors_taken_by_others"] > args.disturbance for entry in tries):
        tries.append(measure_load(server, upload, folder, clients, args.seconds))
    return min(tries, key=lambda entry: entry["share_of_processors_taken_by_others"])


def measure_contender(
    contender: Contender, upload: Upload, folder: Path, expected: str, args: argparse.Namespace
) -> dict[int, Figures]:
    """One server, started for this, with every number of clients."""
    figures = {}
    with running(contender, upload, folder, DHVT_MODEL=str(args.model)) as server:
        check_label(server, upload, expected)
        closed_loop(server.url, upload, folder, clients=max(args.clients), seconds=args.warm_up)
        for clients in args.clients:
            figures[clients] = measure_undisturbed(server, upload, folder, clients, args)
        check_label(server, upload, expected)
    return figures


def combine(rounds: list[Figures], disturbance: float) -> Figures:
    """Medians of the rounds that no other program disturbed, or of all when each was; the sum of errors and the highest
    memory of all."""
    quiet = [entry for entry in rounds if entry["share_of_processors_taken_by_others"] <= disturbance]
    figures = {name: round(median(entry[name] for entry in quiet or rounds), 3) for name in rounds[0]}
    errors, memory = sum(entry["errors"] for entry in rounds), max(entry["peak_memory_mib"] for entry in rounds)
    return figures | {"errors": errors, "peak_memory_mib": memory, "undisturbed_rounds": len(quiet)}


def compare(results: dict[str, dict[int, Figures]], clients: int) -> dict[str, float]:
    """Requests/s of ours, with the same kind of upload, over those of each peer."""
    rates = {name: entry[clients]["requests_per_s"] for name, entry in results.items()}
    ratios = {}
    for name, rate in rates.items():
        ours = f"dhvt ({CONTENDERS[name].upload})"
        if not name.startswith("dhvt") and ours in rates and rate:
            ratios[name] = round(rates[ours] / rate, 2)
    return ratios


def draw(results: dict[str, dict[int, Figures]], ceiling: float, path: Path) -> None:
    """Requests/s and the 99th percentile of latency, a group of bars per number of clients."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    width = 0.8 / len(results)
    for index, (name, entry) in enumerate(results.items()):
        places = [place + index * width for place in range(len(entry))]
        left.bar(places, [row["requests_per_s"] for row in entry.values()], width, label=name)
        right.bar(places, [row["p99_ms"] for row in entry.values()], width)
    left.axhline(ceiling, color="grey", linestyle="--", label="ceiling without HTTP")
    clients = list(next(iter(results.values())))
    for axes in (left, right):
        axes.set_xticks([place + 0.4 - width / 2 for place in range(len(clients))], labels=map(str, clients))
        axes.set_xlabel("clients")
        axes.grid(alpha=0.3, axis="y")
    left.set(ylabel="requests/s")
    right.set(ylabel="99th percentile, ms", yscale="log")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=5)
    figure.supxlabel(processor_name())
    figure.savefig(path, dpi=150)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, metavar="NAME", default=list(CONTENDERS),
                        help=f"default: all; {', '.join(map(repr, CONTENDERS))}")  # fmt: skip
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement")
    parser.add_argument("--warm-up", type=float, default=3, help="seconds of load that are not counted")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--disturbance", type=float, default=0.05,
                        help="repeat a measurement when other programs took more of the processors than this")  # fmt: skip
    parser.add_argument("--tries", type=int, default=3, help="at most so many of each measurement; the least disturbed counts")
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL, help="model folder; default: the bundled one")
    parser.add_argument("--out", type=Path, help="file for the JSON line too")
    parser.add_argument("--plot", type=Path, help="image of bars, .png or .svg")
    args = parser.parse_args()
    args.model = args.model.resolve()
    return args


def main() -> None:
    args = parse_arguments()
    require_wrk()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped
    image = sample_image()
    left_out = [name for name in args.contenders if not CONTENDERS[name].installed]
    names = [name for name in args.contenders if name not in left_out]
    rounds: list[dict[str, dict[int, Figures]]] = []
    ceilings: list[dict[str, Any]] = []
    with tqdm(total=args.rounds * (len(names) + 1)) as bar, tempfile.TemporaryDirectory() as temporary:
        for index in range(args.rounds):
            bar.set_description("ceiling")
            ceilings.append(measure_ceiling(args.model, args.seconds / 2))
            bar.update()
            measured = {}
            for name in names[index % len(names) :] + names[: index % len(names)]:
                bar.set_description(name)
                upload = make_upload(CONTENDERS[name].upload, image)
                measured[name] = measure_contender(CONTENDERS[name], upload, Path(temporary), str(ceilings[0]["label"]), args)
                bar.update()
                tqdm.write(f"{name}: {json.dumps(measured[name])}", file=sys.stderr)
            rounds.append(measured)
    results = {
        name: {clients: combine([entry[name][clients] for entry in rounds], args.disturbance) for clients in args.clients}
        for name in names
    }
    most = max(args.clients)
    ceiling = ceilings[0] | {
        key: round(median(entry[key] for entry in ceilings), 2)
        for key, value in ceilings[0].items()
        if isinstance(value, float)
    }
    line = {
        "benchmark": "servers",
        "model": args.model.name,
        "engine": ceiling.pop("engine"),
        "contenders": {name: {"upload": CONTENDERS[name].upload, "clients": entry} for name, entry in results.items()},
        "left_out_not_installed": left_out,
        f"ratio_of_requests_per_s_at_{most}_clients": compare(results, most),
        "ceiling": ceiling,
        f"fraction_of_ceiling_at_{most}_clients": {
            name: round(entry[most]["requests_per_s"] / ceiling["images_per_s"], 3) for name, entry in results.items()
        },
        "image": {"bytes": len(image), "width": 640, "height": 480},
        "rounds": args.rounds,
        "seconds": args.seconds,
        "processor": processor_name(),
        "processors": available_cpus(),
        "versions": {name: version(name) for name in PACKAGES if name not in left_out},
    }
    text = json.dumps(line)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")
    if args.plot:
        draw(results, ceiling["images_per_s"], args.plot)


if __name__ == "__main__":
    main()
