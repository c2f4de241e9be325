"""Measures every engine: ``python -m dhvt.engines.measure_process MODEL ENGINE THREADS MAX_BATCH_SIZE DEVICE``.

A server starts it after its first start, and it gives way to the server.
"""

from __future__ import annotations

import os
import sys

from dhvt.artifact import load_artifact
from dhvt.engines.selection import measure_engines

LEAST_PRIORITY = 19


def main() -> None:
    """Returns when the results are in the probe cache."""
    path, name, threads, max_batch_size, device = sys.argv[1:]
    os.nice(LEAST_PRIORITY)
    artifact = load_artifact(path)
    measure_engines(artifact, name, threads=int(threads), max_batch_size=int(max_batch_size), device=int(device))


if __name__ == "__main__":
    main()
