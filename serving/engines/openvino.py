"""OpenVINO on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np
import openvino
from numpy.typing import NDArray

from dhvt.artifact import OUTPUT_NAME, Artifact
from dhvt.errors import EngineError
from serving.cpus import processor_flags

_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # for what is not quantized
_MAX_STREAMS = 8
_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
_INT8_FLAGS = {"avx512_vnni", "avx_vnni", "amx_int8"}


class OpenVINOEngine:
    """Compiles ``model.onnx``, or the quantized graph, for this processor.

    A single picture runs on all threads. A larger batch is shared out over streams of one thread each, which need not
    wait for each other after every layer.

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
        streams = min(threads, _MAX_STREAMS)
        self._idle: SimpleQueue[_Requests] = SimpleQueue()
        try:
            model = core.read_model(path)
            single = core.compile_model(model, "CPU", options | {"PERFORMANCE_HINT": "LATENCY"})
            shared = core.compile_model(model, "CPU", options | {"NUM_STREAMS": streams}) if streams > 1 else single
            for _ in range(self.concurrency):
                parallel = [shared.create_infer_request() for _ in range(streams)]
                self._idle.put(_Requests(single.create_infer_request(), parallel))
        except RuntimeError as error:
            raise EngineError(f"OpenVINO {openvino.__version__} cannot compile the graph: {error}") from error

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        requests = self._idle.get()
        try:
            return requests.predict(images)
        finally:
            self._idle.put(requests)


@dataclass(frozen=True)
class _Requests:
    """OpenVINO's requests for one call at a time: for a single picture, and one a stream."""

    single: openvino.InferRequest
    parallel: list[openvino.InferRequest]

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        requests = self.parallel[: len(images)] if len(images) > 1 else [self.single]
        # The parts are views, and stay referenced until the requests that read them are done.
        parts = np.array_split(np.ascontiguousarray(images), len(requests))
        for request, part in zip(requests, parts, strict=True):
            request.start_async([part], share_inputs=True)
        for request in requests:
            request.wait()
        # The outputs are copied, because the requests overwrite them.
        return np.concatenate([request.get_tensor(OUTPUT_NAME).data for request in requests]).astype(np.float32, copy=False)
