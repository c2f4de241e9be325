"""What TensorRT and TensorRT for RTX have in common: how they are imported, their log, and the methods that are used."""

from __future__ import annotations

import logging
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

from dhvt.errors import EngineUnavailable

logger = logging.getLogger(__name__)

OLDEST_CUDA_BINDINGS = (12, 9, 1)
"""Before, they hold Python's lock while they wait for the GPU, so that nothing is decoded meanwhile."""

_MAX_ERRORS = 5


class CudaEngine(Protocol):
    """The methods of ``ICudaEngine`` that are used; neither flavour has types."""

    @property
    def num_io_tensors(self) -> int: ...
    def get_tensor_name(self, index: int) -> str: ...
    def get_tensor_dtype(self, name: str) -> Any: ...
    def get_tensor_shape(self, name: str) -> Any: ...
    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Any]: ...
    def create_runtime_config(self) -> Any: ...
    def create_execution_context(self, runtime_config: Any = ...) -> ExecutionContext | None: ...


class ExecutionContext(Protocol):
    """The methods of ``IExecutionContext`` that are used."""

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool: ...
    def set_tensor_address(self, name: str, memory: int) -> bool: ...
    def execute_async_v3(self, stream_handle: int) -> bool: ...


def import_runtime(flavour: str) -> Any:
    """The Python package ``tensorrt`` or ``tensorrt_rtx``, or None if it is not installed.

    Raises:
        EngineUnavailable: it is installed and cannot be loaded.
    """
    try:
        return import_module(flavour)
    except ModuleNotFoundError:
        return None
    except (ImportError, OSError) as error:  # its libraries, or those of CUDA, are missing
        raise EngineUnavailable(f"{flavour} is installed but cannot be loaded: {error}") from error


def import_cuda() -> Any:
    """:mod:`dhvt.engines.cuda`.

    Raises:
        EngineUnavailable: NVIDIA's bindings for Python are not installed, or cannot be loaded.
    """
    try:
        cuda = import_module("dhvt.engines.cuda")
    except ImportError as error:
        raise EngineUnavailable(f"NVIDIA's CUDA bindings cannot be loaded ({error}); pip install cuda-bindings") from error
    warn_of_old_bindings()
    return cuda


def warn_of_old_bindings() -> None:
    """Logs a warning if ``cuda-bindings`` is older than :data:`OLDEST_CUDA_BINDINGS`."""
    try:
        installed = version("cuda-bindings")
    except PackageNotFoundError:  # part of another distribution
        return
    numbers = tuple(int(part) for part in installed.split(".")[:3] if part.isdigit())
    if numbers < OLDEST_CUDA_BINDINGS:
        needed = ".".join(map(str, OLDEST_CUDA_BINDINGS))
        logger.warning(
            "cuda-bindings %s lets no other thread run while it waits for the GPU; pip install 'cuda-bindings>=%s'",
            installed,
            needed,
        )


def make_log(flavour: Any) -> Any:
    """A TensorRT logger that passes messages to Python's log, and keeps the errors for ours.

    TensorRT logs an error at several levels of its code, and the last is often the least specific, so all are kept.

    Args:
        flavour: the package ``tensorrt`` or ``tensorrt_rtx``.
    """
    levels = {
        flavour.ILogger.INTERNAL_ERROR: logging.ERROR,
        flavour.ILogger.ERROR: logging.ERROR,
        flavour.ILogger.WARNING: logging.WARNING,
        flavour.ILogger.INFO: logging.DEBUG,
        flavour.ILogger.VERBOSE: logging.DEBUG,
    }

    class Log(flavour.ILogger):  # type: ignore[misc]  # the base depends on the flavour
        def __init__(self) -> None:
            super().__init__()
            self._errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            level = levels.get(severity, logging.ERROR)
            if level == logging.ERROR and len(self._errors) < _MAX_ERRORS:
                self._errors.append(message)
            logger.log(level, "%s: %s", flavour.__name__, message)

        def take_errors(self) -> str:
            """The errors since the last call, for an error message."""
            errors, self._errors = self._errors, []
            return "; ".join(errors) or "it gives no reason"

    return Log()
