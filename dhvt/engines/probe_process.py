"""The process of a probe, ``python -m dhvt.engines.probe_process`` with the arguments that :func:`main` reads.

MODEL, CANDIDATE, THREADS, MAX_BATCH_SIZE and DEVICE are those of a build; DIGEST is the model's, whose folder may have been
replaced since; COMPILED is the file to keep what the runtime compiles in, or empty; MEASURE is 1 to measure the speed too,
which is then printed as JSON, in a line that begins with :data:`SPEED_PREFIX`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from dhvt.artifact import load_artifact
from dhvt.engines.base import EngineOptions
from dhvt.engines.compiled import read_compiled, write_compiled
from dhvt.engines.probe import EXIT_CODES, SPEED_PREFIX
from dhvt.engines.registry import build_engine, compile_graphs
from dhvt.engines.selftest import golden_images, self_test
from dhvt.engines.speed import measure_speed
from dhvt.errors import DHVTError, EngineError


def main() -> None:
    """Exits with 0 if the candidate passes; otherwise prints why, and exits with the error's code."""
    path, digest, candidate, threads, max_batch_size, device, compiled, measure = sys.argv[1:]
    largest = int(max_batch_size)
    kept = Path(compiled) if compiled else None
    try:
        artifact = load_artifact(path)
        if artifact.card.engine_digest != digest:
            raise EngineError(f"the model in {path} was replaced before the engine was tested")
        options = EngineOptions(threads=int(threads), max_batch_size=largest, device=int(device))
        known = read_compiled(kept)
        graphs = known or compile_graphs(artifact, candidate, options)
        engine = build_engine(artifact, candidate, options, graphs)
        self_test(engine, artifact, tuple(sorted({1, 2, min(7, largest), largest})))
        if graphs and not known:
            write_compiled(kept, graphs)
        if measure == "1":
            speed = measure_speed(engine, golden_images(artifact, engine.precision)[0], largest, options.threads)
            print(f"\n{SPEED_PREFIX}{json.dumps(speed.to_dict())}")
    except DHVTError as error:
        print(" ".join(str(error).split()))
        sys.exit(EXIT_CODES.get(type(error), 1) if isinstance(error, EngineError) else 1)


if __name__ == "__main__":
    main()
