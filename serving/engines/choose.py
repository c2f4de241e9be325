"""Which engine serves: the first that is installed and passes the self-test.

A runtime can be wrong, or take the process down with it. So each candidate, a runtime in one precision, is first tried
in a process of its own; that it passed is remembered by model, versions and processor, and not tried again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dhvt.artifact import Artifact
from dhvt.errors import EngineError
from serving.cpus import processor_flags, processor_name
from serving.engines.base import Engine
from serving.engines.selftest import self_test

logger = logging.getLogger(__name__)

# name → (package that must be installed, module, class), best first
ENGINES: dict[str, tuple[str, str, str]] = {
    "openvino": ("openvino", "serving.engines.openvino", "OpenVINOEngine"),
    "onnxruntime": ("onnxruntime", "serving.engines.onnx", "OnnxRuntimeEngine"),
}
TRIAL_TIMEOUT_S = 300


def open_engine(artifact: Artifact, name: str = "auto", *, threads: int, max_batch_size: int = 64) -> Engine:
    """Compiles the model and proves it; the self-test is the warm-up too.

    Args:
        artifact: a verified model folder.
        name: a key of :data:`ENGINES`, one with a precision such as ``openvino:fp32``, or ``auto`` for the first that
            works.
        threads: processor threads that the engine may use.
        max_batch_size: the largest batch that is going to be asked for.

    Raises:
        EngineError: the engine asked for, or with ``auto`` every engine, is missing or fails.
    """
    failures: list[str] = []
    for candidate in passing_candidates(artifact, name, threads, max_batch_size, failures):
        try:
            engine = build_engine(artifact, candidate, threads)
            self_test(engine, artifact, (1, max_batch_size))
        except EngineError as error:
            _reject(candidate, error, failures)
        else:
            return engine
    raise EngineError("no engine can serve this model here; " + "; ".join(failures))


def check_engine(artifact: Artifact, name: str, *, threads: int, max_batch_size: int) -> None:
    """Whether :func:`open_engine` will find one, without loading it into this process.

    Raises:
        EngineError: it will not.
    """
    failures: list[str] = []
    if next(passing_candidates(artifact, name, threads, max_batch_size, failures), None) is None:
        raise EngineError("no engine can serve this model here; " + "; ".join(failures))


def passing_candidates(artifact: Artifact, name: str, threads: int, max_batch_size: int, failures: list[str]) -> Iterator[str]:
    """The candidates, such as ``openvino:int8``, that pass in a process of their own; why others do not is added to
    ``failures``."""
    runtime, _, precision = name.partition(":")
    if runtime not in ("auto", *ENGINES) or (runtime == "auto" and precision):
        raise EngineError(f"no engine {name!r}; choose auto or one of {', '.join(ENGINES)}, as openvino or openvino:fp32")
    for engine in ENGINES if runtime == "auto" else [runtime]:
        package = ENGINES[engine][0]
        if find_spec(package) is None:
            _reject(engine, EngineError(f"not installed; pip install {package}"), failures)
            continue
        for choice in [precision] if precision else _load_class(engine).precisions(artifact):
            candidate = f"{engine}:{choice}"
            try:
                _try_in_child(artifact, candidate, threads, max_batch_size)
            except EngineError as error:
                _reject(candidate, error, failures)
            else:
                yield candidate


def all_candidates(artifact: Artifact) -> list[str]:
    """Every runtime that is installed, in every precision that it and this processor have for the artifact."""
    installed = [name for name, (package, _, _) in ENGINES.items() if find_spec(package) is not None]
    return [f"{name}:{precision}" for name in installed for precision in _load_class(name).precisions(artifact)]


def build_engine(artifact: Artifact, candidate: str, threads: int) -> Engine:
    """Compiles the model in this process, unproved.

    Raises:
        EngineError: the runtime cannot.
    """
    name, _, precision = candidate.partition(":")
    build: Callable[[Artifact, int, str], Engine] = _load_class(name)
    return build(artifact, threads, precision)


def _load_class(name: str) -> Any:
    _, module, class_name = ENGINES[name]
    return getattr(import_module(module), class_name)


def _reject(candidate: str, error: EngineError, failures: list[str]) -> None:
    logger.warning("engine %s does not serve: %s", candidate, error)
    failures.append(f"{candidate}: {error}")


def _try_in_child(artifact: Artifact, candidate: str, threads: int, max_batch_size: int) -> None:
    """Opens and proves a candidate in a process of its own, unless it passed before.

    Raises:
        EngineError: it fails, or its process dies.
    """
    passed = _verdict_path(artifact, candidate, threads, max_batch_size)
    if passed.exists():
        return
    command = [sys.executable, "-m", "serving.engines.trial", str(artifact.path), candidate, str(threads), str(max_batch_size)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    try:
        result = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=TRIAL_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"gave no answer in {TRIAL_TIMEOUT_S} s") from error
    if result.returncode < 0:
        raise EngineError(f"its process died of {signal.Signals(-result.returncode).name}")
    if result.returncode:
        lines = (result.stdout.strip() or result.stderr.strip() or "no message").splitlines()
        raise EngineError(lines[-1])
    try:
        passed.parent.mkdir(parents=True, exist_ok=True)
        passed.touch()
    except OSError as error:
        logger.info("that %s passed cannot be remembered in %s: %s", candidate, passed.parent, error.strerror)


def _verdict_path(artifact: Artifact, candidate: str, threads: int, max_batch_size: int) -> Path:
    """An empty file that is there when the candidate passed, named after all that its result depends on."""
    facts = [artifact.digest, candidate, threads, max_batch_size, processor_name(), sorted(processor_flags())]
    facts += [_version(package) for package in (ENGINES[candidate.partition(":")[0]][0], "numpy", "pillow", "dhvt-serve")]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dhvt-serve" / "engines" / digest


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
