"""OpenVINO on the CPU."""

from __future__ import annotations

import numpy as np
import openvino
from numpy.typing import NDArray

from dhvt.artifact import OUTPUT_NAME, Artifact
from dhvt.errors import EngineError
from serving.cpus import processor_flags

_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # for what is not quantized
_MAX_STREAMS = 8
PART = 4
"""Pictures of a part of a batch: with more, nothing was gained any more."""

_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
_INT8_FLAGS = {"avx512_vnni", "avx_vnni", "amx_int8"}


class OpenVINOEngine:
    """Compiles ``model.onnx``, or the quantized graph, for this processor.

    A single picture runs on all threads. More are shared out over streams of one thread each, which need not wait for
    each other after every layer, in parts of four or one: a graph compiled for a fixed batch size is faster than one
    for any, and what four pictures need between two layers stays in the cache.

    Raises:
        EngineError: OpenVINO cannot compile the graph here, or the processor lacks the precision.
    """

    name = "openvino"
    concurrency = 2  # the second call's streams begin where the first's have come to their ends

    @staticmethod
    def precisions(artifact: Artifact) -> list[str]:
        """What this processor multiplies natively and the artifact has, fastest first."""
        flags = processor_flags()
        found = ["bf16"] if flags & _BF16_FLAGS else []
        if artifact.int8_path is not None and flags & _INT8_FLAGS:
            found.append("int8")
        return [*found, "fp32"]

    def __init__(self, artifact: Artifact, precision: str, *, threads: int, max_batch_size: int) -> None:
        if precision not in _HINTS:
            raise EngineError(f"no precision {precision!r}; choose one of {', '.join(_HINTS)}")
        self.precision = precision
        core = openvino.Core()
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise EngineError(f"OpenVINO {openvino.__version__} does not run bf16 natively on this processor")
        path = artifact.int8_path if precision == "int8" else artifact.graph_path
        if path is None:
            raise EngineError("the model has no int8 graph; export it with --int8 and --data")
        options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": _HINTS[precision]}
        self._streams = min(threads, _MAX_STREAMS)
        self.preferred_batch_size = 2 * PART * self._streams  # two parts for each stream: one computes, one waits
        throughput = options | {"NUM_STREAMS": self._streams}
        try:
            model = core.read_model(path)
            self._alone = _FixedBatch(core, model, 1, options | {"PERFORMANCE_HINT": "LATENCY"})
            self._one = _FixedBatch(core, model, 1, throughput) if self._streams > 1 else self._alone
            self._part = _FixedBatch(core, model, PART, throughput)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO {openvino.__version__} cannot compile the graph: {error}") from error

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        images = np.ascontiguousarray(images)
        if len(images) == 1:
            return self._alone.finish(self._alone.start(images))
        rounds, rest = divmod(len(images), PART * self._streams)
        parts = rounds * self._streams + (rest // PART if rest > (PART - 1) * self._streams else 0)
        graphs = [self._part] * parts + [self._one] * (len(images) - PART * parts)
        requests, start = [], 0
        for graph in graphs:
            requests.append(graph.start(images[start : start + graph.size]))
            start += graph.size
        return np.concatenate([graph.finish(request) for graph, request in zip(graphs, requests, strict=True)])


class _FixedBatch:
    """The graph compiled for batches of one size; they queue for its streams."""

    def __init__(self, core: openvino.Core, model: openvino.Model, size: int, options: dict[str, object]) -> None:
        model = model.clone()
        model.reshape([size, *list(model.input().partial_shape)[1:]])
        self.size = size
        self._compiled = core.compile_model(model, "CPU", options)
        self._idle: list[openvino.InferRequest] = []

    def start(self, images: NDArray[np.uint8]) -> openvino.InferRequest:
        """Begins with ``(size, H, W, 3)``, which the request keeps until it is used again."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        request.start_async([images], share_inputs=True)
        return request

    def finish(self, request: openvino.InferRequest) -> NDArray[np.float32]:
        """Its logits, when they are there."""
        request.wait()
        logits: NDArray[np.float32] = request.get_tensor(OUTPUT_NAME).data.astype(np.float32)  # a copy
        self._idle.append(request)
        return logits
