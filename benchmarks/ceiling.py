"""What this machine could serve if HTTP cost nothing: decoding and the engine alone, on all processors.

    python benchmarks/ceiling.py

``decode_images_per_s``: a thread per processor decodes, and nothing else. ``engine_images_per_s``: batches of 32, as many
at once as the engine takes, and nothing else. Both need the same processors, so no server can give more than ``images_per_s`` =
1 / (1 / decode + 1 / engine). ``single_ms`` is one image at a time, decoded and predicted.
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np

from dhvt.hardware.cpus import available_cpus
from load import sample_image
from peers.served import MAX_BATCH_SIZE, Served


def call_times(function: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each call, for so long; the first calls are not counted."""
    for _ in range(3):
        function()
    times = []
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return times


def measure(image: bytes, seconds: float) -> dict[str, object]:
    """The figures of the module's docstring, and the label that the image gets."""
    served, threads = Served(), available_cpus()
    pixels = served.decode(image)
    batch = np.stack([pixels] * MAX_BATCH_SIZE)
    with ThreadPoolExecutor(threads) as pool:
        decode = 64 / median(call_times(lambda: list(pool.map(served.decode, [image] * 64)), seconds))
    with ThreadPoolExecutor(served.engine.concurrency) as pool:
        batches = [batch] * 4 * served.engine.concurrency
        engine = (
            MAX_BATCH_SIZE * len(batches) / median(call_times(lambda: list(pool.map(served.engine.predict, batches)), seconds))
        )
    single = median(call_times(lambda: served.answer(served.predict([served.decode(image)])[0]), seconds))
    return {
        "images_per_s": round(1 / (1 / decode + 1 / engine), 1),
        "decode_images_per_s": round(decode, 1),
        "engine_images_per_s": round(engine, 1),
        "single_ms": round(1e3 * single, 2),
        "engine": f"{served.engine.name}:{served.engine.precision}",
        "threads": threads,
        "label": served.answer(served.predict([pixels])[0])["predictions"][0]["label"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="model folder; default: the bundled one")
    parser.add_argument("--seconds", type=float, default=3, help="for each of the three measurements")
    args = parser.parse_args()
    if args.model:
        os.environ["DHVT_MODEL"] = str(args.model)
    print(json.dumps(measure(sample_image(), args.seconds)))


if __name__ == "__main__":
    main()
