"""TensorRT engines: which TensorRT builds here, building from an ONNX graph, and running the result."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from dhvt.artifact import INPUT_NAME, OUTPUT_NAME
from dhvt.data.batches import Predict
from dhvt.engines.chunks import run_in_chunks
from dhvt.errors import ExportError
from dhvt.hardware.gpus import RTX_CAPABILITIES
from export.settings import TensorRTSettings

FLAVOURS = ("tensorrt", "tensorrt_rtx")


def pick_flavour(name: str = "auto") -> str:
    """``tensorrt`` where it is installed and has a GPU, else ``tensorrt_rtx`` where that is installed.

    Raises:
        ExportError: neither can build an engine here.
    """
    if name not in ("auto", *FLAVOURS):
        raise ExportError(f"no TensorRT flavour {name!r}; choose auto or one of {', '.join(FLAVOURS)}")
    gpu = torch.cuda.is_available()
    if name in ("auto", "tensorrt") and _is_installed("tensorrt") and gpu:
        return "tensorrt"
    if name in ("auto", "tensorrt_rtx") and _is_installed("tensorrt_rtx"):
        return "tensorrt_rtx"
    why = "there is no GPU here, and tensorrt needs one to build" if not gpu else f"{name} is not installed"
    raise ExportError(
        f"no engine can be built: {why}. With an NVIDIA GPU: pip install tensorrt. "
        "For GeForce and RTX GPUs, also on a machine without one: pip install tensorrt-rtx"
    )


def _is_installed(package: str) -> bool:
    spec = find_spec(package)
    return spec is not None and spec.origin is not None  # tensorrt-stubs leaves a folder without code


def build_engine(graph: Path, size: tuple[int, int], settings: TensorRTSettings) -> bytes:
    """Compiles an ONNX graph; each layer's precision is the graph's (a strongly typed network).

    Args:
        graph: ``images`` uint8 ``(batch, H, W, 3)`` to ``logits``.
        size: ``(H, W)``.

    Returns:
        The serialized engine.

    Raises:
        ExportError: TensorRT cannot take the graph (with its own messages), or the settings do not fit the flavour.
    """
    flavour = pick_flavour(settings.flavour)
    _require_fit(flavour, settings)
    trt = import_flavour(flavour)
    # After the environment is set, because Polygraphy reads it once, when it is imported.
    from polygraphy.backend import trt as polygraphy
    from polygraphy.exception import PolygraphyException
    from polygraphy.logger import G_LOGGER

    cache = settings.timing_cache
    messages = StringIO()
    try:
        with redirect_stdout(messages), G_LOGGER.verbosity(G_LOGGER.ERROR):
            builder, network = polygraphy.create_network(strongly_typed=True)
            parser = trt.OnnxParser(network, polygraphy.get_trt_logger())
            if not parser.parse_from_file(str(graph)):
                errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
                raise ExportError(f"TensorRT cannot parse {graph.name}: {'; '.join(errors)}")
            engine = polygraphy.engine_bytes_from_network(
                (builder, network, parser),
                config=_config_loader(trt, polygraphy, flavour, size, settings),
                save_timing_cache=None if cache is None else str(cache),
            )
            return bytes(engine)
    except PolygraphyException as error:
        errors = [line for line in messages.getvalue().splitlines() if not line.startswith("[W]")]
        details = " ".join(" ".join([str(error), *errors]).split())
        raise ExportError(f"TensorRT cannot build an engine of {graph.name}: {details}") from error


def _require_fit(flavour: str, settings: TensorRTSettings) -> None:
    if flavour == "tensorrt" and settings.compute_capability:
        raise ExportError("tensorrt builds for the GPU that is here; --compute-capability is tensorrt_rtx's")
    unsupported = [capability for capability in settings.compute_capability if capability not in RTX_CAPABILITIES]
    if unsupported:
        raise ExportError(
            f"tensorrt_rtx does not support compute capability {', '.join(unsupported)}, only {', '.join(RTX_CAPABILITIES)}"
        )
    if flavour == "tensorrt_rtx" and settings.timing_cache is not None:
        raise ExportError("tensorrt_rtx has no timing cache; leave --timing-cache out")


def _config_loader(trt: Any, polygraphy: Any, flavour: str, size: tuple[int, int], settings: TensorRTSettings) -> Any:
    """A function of builder and network that returns Polygraphy's builder configuration."""
    shapes = {kind: (batch_size, *size, 3) for kind, batch_size in settings.profile.items()}
    options: dict[str, Any] = {
        "profiles": [polygraphy.Profile().add(INPUT_NAME, *(shapes[f"{kind}_batch_size"] for kind in ("min", "opt", "max")))]
    }
    if settings.workspace is not None:
        options["memory_pool_limits"] = {trt.MemoryPoolType.WORKSPACE: int(settings.workspace * 2**30)}
    if hasattr(trt, "IProgressMonitor"):
        options["progress_monitor"] = _progress_monitor(trt)
    if flavour == "tensorrt_rtx":
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

        create = CreateConfigRTX(compute_capabilities=settings.capabilities() or None, **options)
    else:
        cache = settings.timing_cache
        create = polygraphy.CreateConfig(load_timing_cache=str(cache) if cache and cache.exists() else None, **options)

    def load(builder: Any, network: Any) -> Any:
        config = create(builder, network)
        config.clear_flag(trt.BuilderFlag.TF32)  # or fp32 would keep 10 bits of mantissa
        return config

    return load


def import_flavour(flavour: str) -> Any:
    """TensorRT's Python package, with Polygraphy set to use the same.

    Raises:
        ExportError: Polygraphy uses the other flavour already in this process.
    """
    use_rtx = "1" if flavour == "tensorrt_rtx" else "0"
    loaded = sys.modules.get("polygraphy.config")
    if loaded is not None and bool(loaded.USE_TENSORRT_RTX) != (use_rtx == "1"):
        raise ExportError("one process builds with one flavour of TensorRT; start another for the other")
    os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = use_rtx
    return import_module(flavour)


def _progress_monitor(trt: Any) -> Any:
    """TensorRT's phases as progress bars, one below the other, where standard error is a terminal."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base depends on the flavour
        def __init__(self) -> None:
            super().__init__()
            self.bars: dict[str, Any] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.bars[phase_name] = tqdm(total=num_steps, desc=phase_name, leave=parent_phase is None, disable=None)

        def phase_finish(self, phase_name: str) -> None:
            self.bars.pop(phase_name).close()

        def step_complete(self, phase_name: str, step: int) -> bool:
            bar = self.bars[phase_name]
            bar.update(step + 1 - bar.n)
            return True  # go on

    return Monitor()


@contextmanager
def running_engine(engine: bytes, smallest: int, largest: int) -> Iterator[Predict]:
    """The engine on this machine's GPU, for the length of the block.

    Args:
        smallest, largest: batch sizes that it takes; others are filled up or split.

    Raises:
        ExportError: it cannot be loaded, or fails.
    """
    from polygraphy.backend.trt import EngineFromBytes, TrtRunner
    from polygraphy.exception import PolygraphyException

    try:
        with TrtRunner(EngineFromBytes(engine)) as runner:

            def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
                logits: NDArray[np.float32] = runner.infer({INPUT_NAME: images})[OUTPUT_NAME]
                return logits

            yield lambda images: run_in_chunks(run, images, smallest, largest)
    except PolygraphyException as error:
        raise ExportError(
            f"the engine was built, but does not run on this GPU: {error}; if it is for another, name that with "
            "--compute-capability"
        ) from error
