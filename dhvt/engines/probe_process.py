"""The process of a probe: ``python -m dhvt.engines.probe_process MODEL CANDIDATE THREADS MAX_BATCH_SIZE DEVICE``."""

from __future__ import annotations

import sys

from dhvt.artifact import load_artifact
from dhvt.engines.base import EngineOptions
from dhvt.engines.probe import EXIT_CODES
from dhvt.engines.registry import build_engine
from dhvt.engines.selftest import self_test
from dhvt.errors import DHVTError


def main() -> None:
    """Exits with 0 if the candidate passes; otherwise prints why, and exits with the error's code."""
    path, candidate, threads, max_batch_size, device = sys.argv[1:]
    largest = int(max_batch_size)
    try:
        artifact = load_artifact(path)
        options = EngineOptions(threads=int(threads), max_batch_size=largest, device=int(device))
        engine = build_engine(artifact, candidate, options)
        self_test(engine, artifact, tuple(sorted({1, 2, min(7, largest), largest})))
    except DHVTError as error:
        print(" ".join(str(error).split()))
        sys.exit(EXIT_CODES.get(type(error), 1))


if __name__ == "__main__":
    main()
