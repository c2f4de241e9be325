"""Measures every engine: ``python -m dhvt.engines.measure_process MODEL ENGINE THREADS MAX_BATCH_SIZE DEVICE``.

A server starts it after its first start, and it gives way to the server.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from dhvt.artifact import load_artifact
from dhvt.engines.selection import measure_engines

LEAST_PRIORITY = 19
_FIRST_TO_BE_KILLED = b"1000"


def give_way() -> None:
    """Takes the least priority; where memory runs out, Linux ends this process and its probes before the server."""
    os.nice(LEAST_PRIORITY)
    with suppress(OSError):  # another system
        Path("/proc/self/oom_score_adj").write_bytes(_FIRST_TO_BE_KILLED)


def main() -> None:
    """Returns when the results are in the probe cache."""
    path, name, threads, max_batch_size, device = sys.argv[1:]
    give_way()
    artifact = load_artifact(path)
    measure_engines(artifact, name, threads=int(threads), max_batch_size=int(max_batch_size), device=int(device))


if __name__ == "__main__":
    main()
