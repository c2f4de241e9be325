"""OpenVINO on the CPU."""

from __future__ import annotations

import numpy as np
import openvino
from numpy.typing import NDArray

from dhvt.artifact import OPENVINO, Artifact
from dhvt.engines.openvino_chunks import PART, PartedGraph
from dhvt.errors import EngineError
from dhvt.hardware.cpus import processor_flags

_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # for what is not quantized
_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
_INT8_FLAGS = {"avx512_vnni", "avx_vnni", "amx_int8"}


class OpenVINOEngine:
    """Compiles ``model.onnx``, or the quantized graph, for this processor; see :class:`PartedGraph`.

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
        if artifact.find_variant(format=OPENVINO, precision="int8") is not None and flags & _INT8_FLAGS:
            found.append("int8")
        return [*found, "fp32"]

    def __init__(self, artifact: Artifact, precision: str, *, threads: int, max_batch_size: int) -> None:
        if precision not in _HINTS:
            raise EngineError(f"no precision {precision!r}; choose one of {', '.join(_HINTS)}")
        self.precision = precision
        if precision == "bf16" and "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise EngineError(f"OpenVINO {openvino.__version__} does not run bf16 natively on this processor")
        quantized = artifact.find_variant(format=OPENVINO, precision=precision)
        if quantized is None and precision == "int8":
            raise EngineError("the model has no int8 graph; export it with --int8 and --data")
        path = artifact.graph_path if quantized is None else artifact.path_of(quantized)
        try:
            self._graph = PartedGraph(path, threads=threads, precision=_HINTS[precision])
        except RuntimeError as error:
            raise EngineError(f"OpenVINO {openvino.__version__} cannot compile the graph: {error}") from error
        self.preferred_batch_size = 2 * PART * self._graph.streams  # two parts for each stream: one computes, one waits

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._graph.predict(images)
