"""Probes: an engine is first built and tested in a process of its own, because a runtime can crash, hang or be wrong.

The result is remembered by model, options, code, versions, processor and GPU. See :mod:`dhvt.engines.probe_process` for the
process itself.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

from dhvt.artifact import Artifact
from dhvt.engines.base import EngineOptions
from dhvt.engines.cache import code_digest, gpu_facts, versions
from dhvt.engines.probe_cache import is_lasting_crash, read_result, result_path, write_result
from dhvt.engines.registry import find_runtime
from dhvt.errors import DHVTError, EngineError, EngineUnavailable, SelfTestError
from dhvt.hardware.cpus import processor_flags, processor_name

logger = logging.getLogger(__name__)

EXIT_CODES: dict[type[DHVTError], int] = {EngineUnavailable: 3, SelfTestError: 4}
"""Exit code of a probe that fails, by the error; 1 for any other."""

_LOGGED_CHARACTERS = 2000


def probe(artifact: Artifact, candidate: str, options: EngineOptions, *, use_cache: bool = True) -> None:
    """Tests a candidate, such as ``openvino:int8``, in a process of its own, unless the result is remembered.

    A crash and wrong logits are remembered for a day. A time-out and an error that the engine reports are not: they may
    pass, as a machine that is busy, a driver that is not loaded yet, or memory that another process holds.

    Args:
        use_cache: False tests it whatever is remembered.

    Raises:
        EngineError: it fails, or its process dies.
    """
    path = _find_path(artifact, candidate, options)
    remembered = read_result(path) if use_cache and path is not None else None
    if remembered and path is not None:
        raise EngineError(f"{remembered} (remembered for a day; delete {path.parent} to try again)")
    if remembered is not None:
        return
    result = _run_process(artifact, candidate, options)
    if result.returncode and (words := result.stderr.strip()):  # the runtime's own messages
        level = logging.INFO if result.returncode == EXIT_CODES[EngineUnavailable] else logging.WARNING
        logger.log(level, "the probe of %s wrote: %s", candidate, words[-_LOGGED_CHARACTERS:])
    if result.returncode < 0:
        failure = f"its process died of {signal.Signals(-result.returncode).name}"
        if is_lasting_crash(-result.returncode, result.stderr):
            write_result(path, failure)
        raise EngineError(failure)
    if result.returncode:
        failure = (result.stdout.strip() or result.stderr.strip() or "no message").splitlines()[-1]
        kinds = {code: kind for kind, code in EXIT_CODES.items()}
        kind = kinds.get(result.returncode, EngineError)
        if kind is SelfTestError:
            write_result(path, failure)
        raise kind(failure)
    write_result(path)


def _run_process(artifact: Artifact, candidate: str, options: EngineOptions) -> subprocess.CompletedProcess[str]:
    numbers = map(str, (options.threads, options.max_batch_size, options.device))
    command = [sys.executable, "-m", "dhvt.engines.probe_process", str(artifact.path), candidate, *numbers]
    root = str(Path(__file__).resolve().parents[2])  # BentoML takes a bento's own folder off sys.path after importing it
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, *filter(None, sys.path)])}
    timeout_s = find_runtime(candidate).timeout_s
    try:
        return subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"its probe did not end within {timeout_s} s") from error


def _find_path(artifact: Artifact, candidate: str, options: EngineOptions) -> Path | None:
    """The file of the candidate's result, named after everything that the result depends on."""
    runtime = find_runtime(candidate)
    facts = [artifact.digest, candidate, options.threads, options.max_batch_size, processor_name(), sorted(processor_flags())]
    facts += [code_digest(), *versions((*runtime.distributions, "numpy", "pillow", "dhvt-serve"))]
    facts.append(os.environ.get("LD_PRELOAD", ""))  # OpenVINO crashes under a preloaded jemalloc
    if runtime.on_gpu:
        facts += gpu_facts(options.device)
    return result_path(facts)
