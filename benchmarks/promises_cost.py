"""Requests/s of ``POST /classify`` with and without what answers can promise, asked of one server in turns.

    python benchmarks/promises_cost.py > benchmarks/results/promises_cost.json

Needs wrk and a model with reference images. Prints one JSON line: medians, and the ratios to requests that ask for nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from tqdm import trange

from contenders import CONTENDERS, running
from dhvt.artifact import load_artifact
from dhvt.engines.settings import BUNDLED_MODEL
from dhvt.hardware.cpus import available_cpus, processor_name
from load import closed_loop, make_upload, require_wrk, sample_image

QUERIES = {
    "nothing": "",
    "coverage": "?coverage=0.95",
    "reject": "?reject=0.01",
    "both": "?coverage=0.95&reject=0.01",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL, help="model folder; default: the bundled one")
    args = parser.parse_args()
    require_wrk()
    model, upload = args.model.resolve(), make_upload("raw", sample_image())
    rates: dict[str, list[float]] = {name: [] for name in QUERIES}
    with (
        tempfile.TemporaryDirectory() as folder,
        running(CONTENDERS["dhvt (raw)"], upload, Path(folder), DHVT_MODEL=str(model)) as server,
    ):
        for _ in trange(args.rounds, desc="rounds"):
            for name, query in QUERIES.items():
                load = closed_loop(server.url + query, upload, Path(folder), clients=args.clients, seconds=args.seconds)
                if load.not_ok or load.failed:
                    raise RuntimeError(f"{load.not_ok + load.failed} requests {query} failed")
                rates[name].append(load.answers / load.seconds)
    medians = {name: median(values) for name, values in rates.items()}
    line = {
        "benchmark": "promises_cost",
        "date": datetime.now(UTC).date().isoformat(),
        "processor": processor_name(),
        "cores": available_cpus(),
        "model": load_artifact(model).card.name,
        "clients": args.clients,
        "rounds": args.rounds,
        "requests_per_s": {name: round(value, 1) for name, value in medians.items()},
        "ratio": {
            name: round(median(with_ / without for with_, without in zip(values, rates["nothing"], strict=True)), 4)
            for name, values in rates.items()
        },
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
