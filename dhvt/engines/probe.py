"""The process in which a candidate is tried: ``python -m dhvt.engines.probe MODEL CANDIDATE THREADS MAX_BATCH_SIZE``."""

from __future__ import annotations

import sys

from dhvt.artifact import load_artifact
from dhvt.engines.registry import TRIAL_EXIT_CODES, build_engine
from dhvt.engines.selftest import self_test
from dhvt.errors import DHVTError


def main() -> None:
    """Exits with 0 when the candidate passes; else prints why and exits with a code that tells the kind."""
    path, candidate, threads, max_batch_size = sys.argv[1:]
    largest = int(max_batch_size)
    try:
        artifact = load_artifact(path)
        engine = build_engine(artifact, candidate, threads=int(threads), max_batch_size=largest)
        self_test(engine, artifact, tuple(sorted({1, 2, min(7, largest), largest})))
    except DHVTError as error:
        print(" ".join(str(error).split()))
        sys.exit(TRIAL_EXIT_CODES.get(type(error), 1))


if __name__ == "__main__":
    main()
