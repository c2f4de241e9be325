"""Which engine serves: the first that is installed and passes the self-test."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

from dhvt.artifact import Artifact
from dhvt.errors import EngineError
from serving.engines.base import Engine
from serving.engines.selftest import self_test

logger = logging.getLogger(__name__)

# name → (package that must be installed, module, class), best first
ENGINES: dict[str, tuple[str, str, str]] = {
    "openvino": ("openvino", "serving.engines.openvino", "OpenVINOEngine"),
    "onnxruntime": ("onnxruntime", "serving.engines.onnx", "OnnxRuntimeEngine"),
}


def open_engine(artifact: Artifact, name: str = "auto", *, threads: int, max_batch_size: int = 64) -> Engine:
    """Compiles the model and proves it; the self-test is the warm-up too.

    Args:
        artifact: a verified model folder.
        name: a key of :data:`ENGINES`, or ``auto`` for the first that works.
        threads: processor threads that the engine may use.
        max_batch_size: the largest batch that is going to be asked for.

    Raises:
        EngineError: the engine asked for, or with ``auto`` every engine, is missing or fails.
    """
    if name not in ("auto", *ENGINES):
        raise EngineError(f"no engine {name!r}; choose auto or one of {', '.join(ENGINES)}")
    failures: list[str] = []
    for candidate in ENGINES if name == "auto" else [name]:
        try:
            engine = _open(candidate, artifact, threads)
            self_test(engine, artifact, max_batch_size)
        except EngineError as error:
            logger.warning("engine %s does not serve: %s", candidate, error)
            failures.append(f"{candidate}: {error}")
        else:
            return engine
    raise EngineError("no engine can serve this model here; " + "; ".join(failures))


def _open(name: str, artifact: Artifact, threads: int) -> Engine:
    package, module, class_name = ENGINES[name]
    if find_spec(package) is None:
        raise EngineError(f"not installed; pip install {package}")
    build: Callable[[Artifact, int], Engine] = getattr(import_module(module), class_name)
    return build(artifact, threads)
