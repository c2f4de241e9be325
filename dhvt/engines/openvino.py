"""OpenVINO on the CPU."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import openvino
from numpy.typing import NDArray

from dhvt.artifact import OPENVINO, OUTPUT_NAME, Artifact
from dhvt.engines.compiled import Compiled
from dhvt.errors import EngineError
from dhvt.hardware.cpus import allowed_cpus, processor_flags

logger = logging.getLogger(__name__)

CHUNK_SIZE = 4
"""Images of one chunk; larger chunks were no faster."""

_MAX_STREAMS = 8
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # for what is not quantized
_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
_INT8_FLAGS = {"avx512_vnni", "avx_vnni", "amx_int8"}


class OpenVINOEngine:
    """Compiles ``model.onnx``, or the quantized graph, for this processor; see :class:`ChunkedModel`.

    Raises:
        EngineError: OpenVINO cannot compile the graph here, or the processor lacks the precision.
    """

    name = "openvino"
    concurrency = 2  # the second call uses the streams that the first has no more chunks for

    @staticmethod
    def precisions(artifact: Artifact) -> list[str]:
        """The precisions that this processor multiplies natively and the artifact has, expected fastest first."""
        flags = processor_flags()
        has_int8 = artifact.find_variant(format=OPENVINO, precision="int8") is not None and flags & _INT8_FLAGS
        found = ["int8"] if has_int8 else []
        return [*found, "bf16", "fp32"] if flags & _BF16_FLAGS else [*found, "fp32"]

    @staticmethod
    def compile(artifact: Artifact, precision: str, *, threads: int) -> Compiled:
        """See :func:`compile_graphs`.

        Raises:
            EngineError: as the class.
        """
        path = _graph_path(artifact, precision)
        try:
            return compile_graphs(path, threads=threads, precision=_HINTS[precision])
        except RuntimeError as error:
            raise EngineError(f"OpenVINO {openvino.__version__} cannot compile the graph: {error}") from error

    def __init__(
        self,
        artifact: Artifact,
        precision: str,
        *,
        threads: int,
        max_batch_size: int,
        device: int = 0,
        compiled: Compiled | None = None,
    ) -> None:
        self.precision = precision
        path = _graph_path(artifact, precision)
        try:
            self._model = ChunkedModel(path, threads=threads, precision=_HINTS[precision], compiled=compiled)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO {openvino.__version__} cannot compile the graph: {error}") from error
        # Two chunks for each stream: while one is computed, the other waits.
        self.preferred_batch_size = 2 * CHUNK_SIZE * self._model.streams

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._model.predict(images)


def _graph_path(artifact: Artifact, precision: str) -> Path:
    """The graph that OpenVINO reads for a precision.

    Raises:
        EngineError: the artifact or the processor lacks the precision.
    """
    if precision not in _HINTS:
        raise EngineError(f"no precision {precision!r}; choose one of {', '.join(_HINTS)}")
    if precision == "bf16" and "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise EngineError(f"OpenVINO {openvino.__version__} does not run bf16 natively on this processor")
    quantized = artifact.find_variant(format=OPENVINO, precision=precision)
    if quantized is None and precision == "int8":
        raise EngineError("the model has no int8 graph; dhvt export ckpt.pt --target int8 --data IMAGES adds one")
    return artifact.graph_path if quantized is None else artifact.path_of(quantized)


class ChunkedModel:
    """A graph compiled for fixed batch sizes, which runs a batch in chunks.

    A single image runs on all threads. Larger batches are shared out over streams, one a thread up to eight, which need not
    wait for each other after every layer, in chunks of four images or one: a graph compiled for a fixed batch size is faster
    than one for any size, and the values of four images between two layers stay in the processor's cache. OpenVINO also
    rounds a quantized graph for any batch size in other places; its logits differ by up to 0.1.

    Args:
        path: an ONNX file or OpenVINO's IR.
        threads: processor threads.
        precision: of the layers that are not quantized, by OpenVINO's name: ``f32`` or ``bf16``.
        compiled: of :func:`compile_graphs` with the same arguments; None compiles now.

    Raises:
        RuntimeError: OpenVINO cannot compile the graph here.
    """

    def __init__(self, path: Path, *, threads: int, precision: str = "f32", compiled: Compiled | None = None) -> None:
        self.streams = _count_streams(threads)
        if compiled is not None:
            try:
                self._load(compiled, threads, precision)
                return
            except (RuntimeError, KeyError) as error:
                logger.warning("what OpenVINO compiled before cannot be read (%s); it is compiled again", error)
        self._load(compile_graphs(path, threads=threads, precision=precision), threads, precision)

    def _load(self, graphs: Compiled, threads: int, precision: str) -> None:
        core, options = _new_core(), _options(threads, precision)
        throughput = options | {"NUM_STREAMS": self.streams}
        with ThreadPoolExecutor(threads) as pool:
            alone = pool.submit(_FixedBatch, core, graphs["1"], 1, options | {"PERFORMANCE_HINT": "LATENCY"})
            chunk = pool.submit(_FixedBatch, core, graphs[str(CHUNK_SIZE)], CHUNK_SIZE, throughput)
            one = pool.submit(_FixedBatch, core, graphs["1"], 1, throughput) if self.streams > 1 else alone
            self._alone, self._one, self._chunk = alone.result(), one.result(), chunk.result()

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Images ``(B, H, W, 3)`` uint8 RGB, any B ≥ 1, to logits ``(B, classes)``; several threads may call at once."""
        if len(images) == 1:
            return self._alone.finish(self._alone.start(images))
        rounds, rest = divmod(len(images), CHUNK_SIZE * self.streams)
        chunks = rounds * self.streams + (rest // CHUNK_SIZE if rest > (CHUNK_SIZE - 1) * self.streams else 0)
        graphs = [self._chunk] * chunks + [self._one] * (len(images) - CHUNK_SIZE * chunks)
        requests, start = [], 0
        for graph in graphs:
            requests.append(graph.start(images[start : start + graph.size]))
            start += graph.size
        return np.concatenate([graph.finish(request) for graph, request in zip(graphs, requests, strict=True)])


def compile_graphs(path: Path, *, threads: int, precision: str = "f32") -> dict[str, bytes]:
    """OpenVINO's transformed graphs for one image and for a chunk, by their batch size.

    Making an engine of them is three times as fast as compiling the model for each use.

    Raises:
        RuntimeError: OpenVINO cannot compile the graph here.
    """
    core = _new_core()
    model = core.read_model(path)
    options = _options(threads, precision) | {"NUM_STREAMS": _count_streams(threads)}

    def compile_for(size: int) -> bytes:
        fixed = model.clone()
        fixed.reshape([size, *list(fixed.input().partial_shape)[1:]])
        exported: bytes = core.compile_model(fixed, "CPU", options).export_model().getvalue()
        return exported

    sizes = (1, CHUNK_SIZE)
    with ThreadPoolExecutor(min(threads, len(sizes))) as pool:
        return dict(zip(map(str, sizes), pool.map(compile_for, sizes), strict=True))


def _new_core() -> openvino.Core:
    """OpenVINO without its snippets, code that it generates for groups of small operations.

    On a DHVT-T they made neither one image nor four faster (processor time within 3 % in fp32, bf16 and int8), and cost a
    third of the time to compile and a third to a half of the memory. OpenVINO does not promise to keep the option, so a
    version without it runs with them.
    """
    core = openvino.Core()
    with suppress(RuntimeError):
        core.set_property("CPU", {"SNIPPETS_MODE": "DISABLE"})
    return core


def _options(threads: int, precision: str) -> dict[str, object]:
    # Pinned threads start at the first processor that this process may use, as those of every other process do.
    has_all = threads >= allowed_cpus()
    return {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision, "ENABLE_CPU_PINNING": has_all}


def _count_streams(threads: int) -> int:
    return min(threads, _MAX_STREAMS)


class _FixedBatch:
    """The graph compiled for one batch size; requests queue for its streams."""

    def __init__(self, core: openvino.Core, graph: bytes, size: int, options: dict[str, object]) -> None:
        self.size = size
        self._compiled = core.import_model(graph, "CPU", options)
        self._idle: list[_Request] = []

    def start(self, images: NDArray[np.uint8]) -> _Request:
        """Starts a request with images ``(size, H, W, 3)``."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = _Request(self._compiled)
        request.start(images)
        return request

    def finish(self, request: _Request) -> NDArray[np.float32]:
        """Waits for the request's logits, ``(size, classes)``."""
        logits = request.finish()
        self._idle.append(request)
        return logits


class _Request:
    """An inference request over tensors of its own, so that their addresses are set once and not for each batch."""

    def __init__(self, compiled: openvino.CompiledModel) -> None:
        self._request = compiled.create_infer_request()
        self._images = self._request.get_input_tensor().data
        self._logits = self._request.get_tensor(OUTPUT_NAME).data

    def start(self, images: NDArray[np.uint8]) -> None:
        self._images[...] = images
        self._request.start_async()

    def finish(self) -> NDArray[np.float32]:
        self._request.wait()
        logits: NDArray[np.float32] = self._logits.astype(np.float32)  # a copy
        return logits
