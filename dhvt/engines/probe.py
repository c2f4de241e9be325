"""Probes: an engine is first built and tested in a process of its own, because a runtime can crash, hang or be wrong.

The result is remembered by model, options, code, versions, processor and GPU. See :mod:`dhvt.engines.probe_process` for the
process itself.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from dhvt.artifact import Artifact
from dhvt.engines.base import EngineOptions
from dhvt.engines.cache import code_digest, gpu_facts, versions
from dhvt.engines.compiled import Compiled, compiled_path, read_compiled
from dhvt.engines.probe_cache import ProbeResult, is_lasting_crash, key_of, read_result, result_path, write_result
from dhvt.engines.registry import find_runtime
from dhvt.engines.speed import Speed
from dhvt.errors import EngineError, EngineUnavailable, ProbeStopped, SelfTestError
from dhvt.hardware.cpus import processor_flags, processor_name

logger = logging.getLogger(__name__)

EXIT_CODES: dict[type[EngineError], int] = {EngineUnavailable: 3, SelfTestError: 4}
"""Exit code of a probe that fails, by the error; 1 for any other."""

SPEED_PREFIX = "dhvt-speed "
"""Begins the line in which a probe's process prints the speed; a runtime may print lines of its own."""

_LOGGED_CHARACTERS = 2000


def recall(artifact: Artifact, candidate: str, options: EngineOptions) -> ProbeResult | None:
    """What is remembered of a candidate, such as ``openvino:int8``; None where it has to be probed."""
    return read_result(result_file(artifact, candidate, options))


def recall_compiled(artifact: Artifact, candidate: str, options: EngineOptions) -> Compiled | None:
    """What the candidate's runtime compiled in its probe; None where nothing is kept."""
    return read_compiled(_compiled_path(artifact, candidate, options))


def probe(
    artifact: Artifact, candidate: str, options: EngineOptions, *, use_cache: bool = True, measure: bool = False
) -> Speed | None:
    """Tests a candidate, such as ``openvino:int8``, in a process of its own, unless the result is remembered.

    A crash and wrong logits are remembered for a day. A time-out and an error that the engine reports are not: they may
    pass, as a machine that is busy, a driver that is not loaded yet, or memory that another process holds.

    Args:
        use_cache: False tests it whatever is remembered.
        measure: True measures its speed too, unless that is remembered.

    Returns:
        Its speed, where it has been measured.

    Raises:
        EngineError: it fails, or its process dies.
        ProbeStopped: its process was told to stop, as with the server that started it; no other need be tried.
    """
    path = result_file(artifact, candidate, options)
    remembered = read_result(path) if use_cache else None
    if remembered is not None and path is not None:
        if remembered.failure is not None:
            raise EngineError(f"{remembered.failure} (remembered for a day; delete {path.parent} to try again)")
        if remembered.speed is not None or not measure:
            return remembered.speed
    result = _run_process(artifact, candidate, options, measure)
    if result.returncode and (words := result.stderr.strip()):  # the runtime's own messages
        level = logging.INFO if result.returncode == EXIT_CODES[EngineUnavailable] else logging.WARNING
        logger.log(level, "the probe of %s wrote: %s", candidate, words[-_LOGGED_CHARACTERS:])
    if result.returncode:
        raise _failure(result, path)
    speed = _read_speed(result.stdout) if measure else None
    write_result(path, ProbeResult(speed=speed))
    return speed


def _read_speed(output: str) -> Speed:
    """The speed that a probe's process printed."""
    for line in output.splitlines():
        if line.startswith(SPEED_PREFIX):
            with suppress(ValueError, TypeError):
                return Speed(**json.loads(line.removeprefix(SPEED_PREFIX)))
    raise EngineError("its probe ended without having printed its speed")


def _failure(result: subprocess.CompletedProcess[str], path: Path | None) -> EngineError | ProbeStopped:
    """The error of a probe that failed, which is remembered where it would fail again."""
    if -result.returncode in (signal.SIGTERM, signal.SIGINT):  # the server is being stopped, and its children with it
        return ProbeStopped("the test of an engine was stopped")
    if result.returncode < 0:
        failure = f"its process died of {signal.Signals(-result.returncode).name}"
        if is_lasting_crash(-result.returncode, result.stderr):
            write_result(path, ProbeResult(failure=failure))
        return EngineError(failure)
    failure = (result.stdout.strip() or result.stderr.strip() or "no message").splitlines()[-1]
    kinds: dict[int, type[EngineError]] = {code: kind for kind, code in EXIT_CODES.items()}
    kind = kinds.get(result.returncode, EngineError)
    if kind is SelfTestError:
        write_result(path, ProbeResult(failure=failure))
    return kind(failure)


def _run_process(artifact: Artifact, candidate: str, options: EngineOptions, measure: bool) -> subprocess.CompletedProcess[str]:
    compiled = _compiled_path(artifact, candidate, options)
    arguments = [artifact.path, artifact.card.engine_digest, candidate, options.threads, options.max_batch_size, options.device]
    arguments += ["" if compiled is None else compiled, int(measure)]
    command = [sys.executable, "-m", "dhvt.engines.probe_process", *map(str, arguments)]
    root = str(Path(__file__).resolve().parents[2])  # BentoML takes a bento's own folder off sys.path after importing it
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, *filter(None, sys.path)])}
    timeout_s = find_runtime(candidate).timeout_s
    try:
        return subprocess.run(
            command, check=False, capture_output=True, encoding="utf-8", errors="replace", env=environment, timeout=timeout_s
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"its probe did not end within {timeout_s} s") from error


def result_file(artifact: Artifact, candidate: str, options: EngineOptions) -> Path | None:
    """The file of the candidate's result."""
    return result_path(_facts(artifact, candidate, options))


def _compiled_path(artifact: Artifact, candidate: str, options: EngineOptions) -> Path | None:
    """The file of what its runtime compiles, where it compiles for long."""
    if not find_runtime(candidate).compiles:
        return None
    return compiled_path(key_of(_facts(artifact, candidate, options)))


def _facts(artifact: Artifact, candidate: str, options: EngineOptions) -> list[object]:
    """Everything that a candidate's result depends on."""
    runtime = find_runtime(candidate)
    facts: list[object] = [
        artifact.card.engine_digest,
        candidate,
        options.threads,
        options.max_batch_size,
        processor_name(),
        sorted(processor_flags()),
    ]
    facts += [code_digest(), *versions((*runtime.distributions, "numpy", "pillow", "dhvt-serve"))]
    facts.append(os.environ.get("LD_PRELOAD", ""))  # OpenVINO crashes under a preloaded jemalloc
    if runtime.on_gpu:
        facts += gpu_facts(options.device)
    return facts
