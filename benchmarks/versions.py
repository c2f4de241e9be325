"""This checkout's server beside another version's: ``python benchmarks/versions.py ../other-checkout --cors``.

Both servers stay up and are loaded in turns, so that what else the machine does meets both. Prints one JSON line with the
medians over the rounds and their ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from contenders import CONTENDERS, ROOT, running
from dhvt.hardware.cpus import processor_name
from load import Load, closed_loop, make_upload, require_wrk, sample_image


def summarize(loads: list[Load]) -> dict[str, float]:
    """Returns the medians over the rounds."""
    return {
        "requests_per_s": round(statistics.median(load.answers / load.seconds for load in loads), 1),
        "p50_ms": round(statistics.median(load.p50_ms for load in loads), 1),
        "p99_ms": round(statistics.median(load.p99_ms for load in loads), 1),
        "not_ok": sum(load.not_ok + load.failed for load in loads),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, help="checkout of the version to compare with")
    parser.add_argument("--engine", default="auto", help="DHVT_ENGINE of both")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--cors", action="store_true", help="with DHVT_CORS_ORIGINS=*")
    args = parser.parse_args()
    require_wrk()
    settings = {"DHVT_ENGINE": args.engine} | ({"DHVT_CORS_ORIGINS": "*"} if args.cors else {})
    upload = make_upload("raw", sample_image())
    loads: dict[str, list[Load]] = {"other": [], "this": []}
    with ExitStack() as stack:
        urls = {}
        for name, checkout in (("other", args.other.resolve()), ("this", ROOT)):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            contender = replace(CONTENDERS["dhvt (raw)"], folder=checkout, environment={"PYTHONPATH": str(checkout)})
            urls[name] = stack.enter_context(running(contender, upload, folder, **settings)).url
        for turn in range(args.rounds + 1):
            for name, url in urls.items():
                load = closed_loop(url, upload, folder, clients=args.clients, seconds=args.seconds)
                if turn:  # the first is the warm-up
                    loads[name].append(load)
    medians = {name: summarize(rounds) for name, rounds in loads.items()}
    ratios = {key: round(medians["this"][key] / medians["other"][key], 3) for key in ("requests_per_s", "p50_ms", "p99_ms")}
    facts = {"processor": processor_name(), "engine": args.engine, "cors": args.cors, "clients": args.clients}
    print(json.dumps({**facts, "rounds": args.rounds, **medians, "this_over_other": ratios}))


if __name__ == "__main__":
    main()
