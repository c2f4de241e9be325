"""The runtimes there are, best first. How to add one: "A new runtime" in docs/engines.md."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from dhvt.artifact import Artifact
from dhvt.engines.base import Engine, EngineOptions
from dhvt.engines.cache import CUDA_LIBRARIES
from dhvt.engines.compiled import Compiled
from dhvt.errors import ArtifactError, EngineError, EngineUnavailable

logger = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 300
BUILD_TIMEOUT_S = 1800
"""Time limit of a probe that builds an engine first."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """One entry of the registry.

    Args:
        module, class_name: where its engine's class is. The class is called with an artifact, a precision and the fields of
            :class:`EngineOptions`; its ``precisions(artifact)`` lists those that it offers, best first.
        package: the package that the module imports, where it is not chosen by the artifact.
        distributions: the names on PyPI of the packages that its results depend on.
        on_gpu: whether its results depend on the GPU and its driver.
        compiles: whether what it compiles is kept. Its class then has ``compile(artifact, precision, threads=…)``, which
            returns graphs by name, and takes these as ``compiled``.
        timeout_s: time limit of a probe.
    """

    module: str
    class_name: str
    package: str | None
    distributions: tuple[str, ...]
    on_gpu: bool = False
    compiles: bool = False
    timeout_s: int = PROBE_TIMEOUT_S


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
        module="dhvt.engines.openvino",
        class_name="OpenVINOEngine",
        package="openvino",
        distributions=("openvino",),
        compiles=True,
    ),
    "onnxruntime": Runtime(
        module="dhvt.engines.onnx", class_name="OnnxRuntimeEngine", package="onnxruntime", distributions=ONNXRUNTIME
    ),
}
"""By name, best first."""


def find_runtime(candidate: str) -> Runtime:
    """The entry of a candidate, such as ``openvino`` or ``openvino:int8``."""
    return ENGINES[candidate.partition(":")[0]]


def find_precisions(artifact: Artifact, name: str) -> list[str]:
    """The precisions that an engine offers for the artifact on this machine, best first.

    Raises:
        EngineUnavailable: the engine is not for this machine or artifact.
        EngineError: what it needs is installed, but cannot be used.
    """
    package = ENGINES[name].package
    if package is not None and find_spec(package) is None:
        raise EngineUnavailable(f"not installed; pip install {package}")
    try:
        precisions: list[str] = _load_class(name).precisions(artifact)
    except (ImportError, OSError, AttributeError) as error:  # a package that is incomplete, or lacks a system library
        raise EngineError(f"its package is installed and cannot be imported ({type(error).__name__}: {error})") from error
    return precisions


def all_candidates(artifact: Artifact) -> list[str]:
    """Every engine that can run here, in every precision that it offers for the artifact, as ``openvino:int8``."""
    found = []
    for name in ENGINES:
        try:
            found += [f"{name}:{precision}" for precision in find_precisions(artifact, name)]
        except EngineError as error:
            logger.info("engine %s is left out: %s", name, error)
    return found


def compile_graphs(artifact: Artifact, candidate: str, options: EngineOptions) -> Compiled | None:
    """What the runtime makes of the model once, for any number of engines; None where it keeps nothing.

    Raises:
        EngineError: the runtime cannot.
    """
    name, _, precision = candidate.partition(":")
    if not ENGINES[name].compiles:
        return None
    compile_all: Callable[..., Compiled] = _load_class(name).compile
    return compile_all(artifact, precision, threads=options.threads)


def build_engine(artifact: Artifact, candidate: str, options: EngineOptions, compiled: Compiled | None = None) -> Engine:
    """Makes the engine in this process, without testing it.

    Args:
        compiled: of :func:`compile_graphs`; None compiles now.

    Raises:
        EngineError: the runtime cannot, or the model folder was replaced meanwhile.
    """
    name, _, precision = candidate.partition(":")
    build: Callable[..., Engine] = _load_class(name)
    extra = {} if compiled is None else {"compiled": compiled}
    size = options.max_batch_size
    engine = build(artifact, precision, threads=options.threads, max_batch_size=size, device=options.device, **extra)
    try:
        artifact.check_files()  # runtimes open them by name
    except ArtifactError as error:
        raise EngineError(f"the model in {artifact.path} was replaced while the engine was built") from error
    return engine


def _load_class(name: str) -> Any:
    return getattr(import_module(ENGINES[name].module), ENGINES[name].class_name)
