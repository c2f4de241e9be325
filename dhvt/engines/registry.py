"""Which engine serves: the first that is installed and passes the self-test.

A runtime can be wrong, or take the process down with it. So each candidate, a runtime in one precision, is first tried
in a process of its own; the verdict is remembered by model, versions, processor and GPU, and it is not tried again.
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
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dhvt.artifact import Artifact
from dhvt.engines.base import Engine
from dhvt.engines.cache import CUDA_LIBRARIES, cache_folder, gpu_facts, versions
from dhvt.engines.probe_cache import is_lasting_crash, read_verdict, write_verdict
from dhvt.engines.selftest import self_test
from dhvt.errors import DHVTError, EngineError, EngineUnavailable, SelfTestError
from dhvt.hardware.cpus import processor_flags, processor_name

logger = logging.getLogger(__name__)

TRIAL_TIMEOUT_S = 300
BUILD_TIMEOUT_S = 1800
"""Of a trial that builds an engine first."""
TRIAL_EXIT_CODES: dict[type[DHVTError], int] = {EngineUnavailable: 3, SelfTestError: 4}
"""Of a trial that fails, by the error; 1 for any other."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Where an engine's class is.

    Args:
        module, class_name: its place.
        package: what must be installed before the module can be imported, where that is not up to the artifact.
        distributions: what pip calls the packages that its results depend on.
        on_gpu: whether they depend on the GPU and its driver.
        timeout_s: how long a trial may take.
    """

    module: str
    class_name: str
    package: str | None
    distributions: tuple[str, ...]
    on_gpu: bool = False
    timeout_s: int = TRIAL_TIMEOUT_S


ONNXRUNTIME = ("onnxruntime", "onnxruntime-gpu")
TENSORRT = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx")
ENGINES: dict[str, Runtime] = {
    "tensorrt": Runtime(
        module="dhvt.engines.tensorrt",
        class_name="TensorRTEngine",
        package=None,
        distributions=(*TENSORRT, "cuda-bindings"),
        on_gpu=True,
    ),
    "onnxruntime-tensorrt": Runtime(
        module="dhvt.engines.onnx_gpu",
        class_name="OnnxRuntimeTensorRTEngine",
        package="onnxruntime",
        distributions=(*ONNXRUNTIME, *TENSORRT, *CUDA_LIBRARIES),
        on_gpu=True,
        timeout_s=BUILD_TIMEOUT_S,
    ),
    "onnxruntime-cuda": Runtime(
        module="dhvt.engines.onnx_gpu",
        class_name="OnnxRuntimeCUDAEngine",
        package="onnxruntime",
        distributions=(*ONNXRUNTIME, *CUDA_LIBRARIES),
        on_gpu=True,
    ),
    "openvino": Runtime(
        module="dhvt.engines.openvino", class_name="OpenVINOEngine", package="openvino", distributions=("openvino",)
    ),
    "onnxruntime": Runtime(
        module="dhvt.engines.onnx", class_name="OnnxRuntimeEngine", package="onnxruntime", distributions=ONNXRUNTIME
    ),
}
"""Best first."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """An engine that serves, and why those before it do not.

    Args:
        engine: proved on this machine.
        rejected: ``candidate: reason``, in the order in which they were tried.
    """

    engine: Engine
    rejected: tuple[str, ...]


def open_engine(artifact: Artifact, name: str = "auto", *, threads: int, max_batch_size: int = 64) -> Choice:
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
    rejected: list[str] = []
    for candidate in passing_candidates(artifact, name, threads, max_batch_size, rejected):
        try:
            engine = build_engine(artifact, candidate, threads=threads, max_batch_size=max_batch_size)
            self_test(engine, artifact, (1, max_batch_size))
        except EngineError as error:
            _reject(candidate, error, rejected)
        else:
            return Choice(engine=engine, rejected=tuple(rejected))
    raise _none(rejected)


def check_engine(artifact: Artifact, name: str, *, threads: int, max_batch_size: int) -> None:
    """Whether :func:`open_engine` will find one, without loading it into this process.

    Raises:
        EngineError: it will not.
    """
    rejected: list[str] = []
    if next(passing_candidates(artifact, name, threads, max_batch_size, rejected), None) is None:
        raise _none(rejected)


def passing_candidates(artifact: Artifact, name: str, threads: int, max_batch_size: int, rejected: list[str]) -> Iterator[str]:
    """The candidates, such as ``openvino:int8``, that pass in a process of their own; why others do not is added to
    ``rejected``."""
    runtime, _, precision = name.partition(":")
    if runtime not in ("auto", *ENGINES) or (runtime == "auto" and precision):
        raise EngineError(f"no engine {name!r}; choose auto or one of {', '.join(ENGINES)}, as openvino or openvino:fp32")
    for engine in ENGINES if runtime == "auto" else [runtime]:
        try:
            precisions = find_precisions(artifact, engine)
        except EngineError as error:
            _reject(engine, error, rejected, logging.INFO if isinstance(error, EngineUnavailable) else logging.WARNING)
            continue
        for choice in [precision] if precision else precisions:
            candidate = f"{engine}:{choice}"
            try:
                try_in_child(artifact, candidate, threads, max_batch_size)
            except EngineError as error:
                _reject(candidate, error, rejected)
            else:
                yield candidate


def all_candidates(artifact: Artifact) -> list[str]:
    """Every runtime that is there, in every precision that it and this machine have for the artifact."""
    found = []
    for engine in ENGINES:
        try:
            found += [f"{engine}:{precision}" for precision in find_precisions(artifact, engine)]
        except EngineError as error:
            logger.info("engine %s is left out: %s", engine, error)
    return found


def build_engine(artifact: Artifact, candidate: str, *, threads: int, max_batch_size: int) -> Engine:
    """Compiles the model in this process, unproved.

    Raises:
        EngineError: the runtime cannot.
    """
    name, _, precision = candidate.partition(":")
    build: Callable[..., Engine] = _load_class(name)
    return build(artifact, precision, threads=threads, max_batch_size=max_batch_size)


def find_precisions(artifact: Artifact, engine: str) -> list[str]:
    """Those that the engine offers for the artifact, best first.

    Raises:
        EngineUnavailable: the engine is not for this machine or artifact.
        EngineError: what it needs is there, but cannot be used.
    """
    package = ENGINES[engine].package
    if package is not None and find_spec(package) is None:
        raise EngineUnavailable(f"not installed; pip install {package}")
    try:
        precisions: list[str] = _load_class(engine).precisions(artifact)
    except (ImportError, OSError, AttributeError) as error:  # a package that is torn, or lacks a library of the system
        raise EngineError(f"its package is installed and cannot be imported ({type(error).__name__}: {error})") from error
    return precisions


def _load_class(name: str) -> Any:
    return getattr(import_module(ENGINES[name].module), ENGINES[name].class_name)


def _reject(candidate: str, error: EngineError, rejected: list[str], level: int = logging.WARNING) -> None:
    reason = " ".join(str(error).split())  # runtimes speak in several lines
    logger.log(level, "engine %s does not serve: %s", candidate, reason)
    rejected.append(f"{candidate}: {reason}")


def _none(rejected: list[str]) -> EngineError:
    return EngineError("no engine can serve this model here; " + "; ".join(rejected))


def try_in_child(artifact: Artifact, candidate: str, threads: int, max_batch_size: int, *, anew: bool = False) -> None:
    """Opens and proves a candidate in a process of its own, unless what comes of that is remembered.

    Args:
        anew: whatever is remembered.

    Raises:
        EngineError: it fails, or its process dies.
    """
    path = _verdict_path(artifact, candidate, threads, max_batch_size)
    remembered = None if anew else read_verdict(path)
    if remembered:
        raise EngineError(f"{remembered} (remembered; delete {path.parent} to try again)")
    if remembered is not None:
        return
    timeout_s = ENGINES[candidate.partition(":")[0]].timeout_s
    command = [sys.executable, "-m", "dhvt.engines.probe", str(artifact.path), candidate, str(threads), str(max_batch_size)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    # A crash, a time-out and wrong logits are remembered. What an engine itself reports is not: it comes quickly, and may
    # be about the moment, as a driver that is not loaded yet or memory that another process holds.
    try:
        result = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        failure = f"gave no answer in {timeout_s} s"
        write_verdict(path, failure)
        raise EngineError(failure) from error
    if result.returncode < 0:
        failure = f"its process died of {signal.Signals(-result.returncode).name}"
        if is_lasting_crash(-result.returncode, result.stderr):
            write_verdict(path, failure)
        raise EngineError(failure)
    if result.returncode:
        lines = (result.stdout.strip() or result.stderr.strip() or "no message").splitlines()
        kinds = {code: kind for kind, code in TRIAL_EXIT_CODES.items()}
        kind = kinds.get(result.returncode, EngineError)
        if kind is SelfTestError:
            write_verdict(path, lines[-1])
        raise kind(lines[-1])
    write_verdict(path)


def _verdict_path(artifact: Artifact, candidate: str, threads: int, max_batch_size: int) -> Path:
    """Where the candidate's result is remembered: named after all that it depends on."""
    runtime = ENGINES[candidate.partition(":")[0]]
    facts = [artifact.digest, candidate, threads, max_batch_size, processor_name(), sorted(processor_flags())]
    facts += versions((*runtime.distributions, "numpy", "pillow", "dhvt-serve"))
    facts.append(os.environ.get("LD_PRELOAD", ""))  # OpenVINO dies of a preloaded jemalloc
    if runtime.on_gpu:
        facts += gpu_facts()
    return cache_folder("engines") / hashlib.sha256(json.dumps(facts).encode()).hexdigest()
