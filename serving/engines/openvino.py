"""OpenVINO on the CPU."""

from __future__ import annotations

import numpy as np
import openvino
from numpy.typing import NDArray

from dhvt.artifact import OUTPUT_NAME, Artifact
from dhvt.errors import EngineError

_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


class OpenVINOEngine:
    """Compiles ``model.onnx`` for this processor; bf16 where it multiplies that natively, else fp32.

    Raises:
        EngineError: OpenVINO cannot compile the graph here.
    """

    name = "openvino"

    def __init__(self, artifact: Artifact, threads: int) -> None:
        core = openvino.Core()
        native = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.precision = "bf16" if native else "fp32"
        options = {
            "PERFORMANCE_HINT": "LATENCY",  # one batch at a time, on all threads
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": _PRECISIONS[self.precision],
        }
        try:
            model = core.compile_model(artifact.graph_path, "CPU", options)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO {openvino.__version__} cannot compile the graph: {error}") from error
        self._request = model.create_infer_request()

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        # share_inputs saves a copy; the output is copied because the request overwrites it.
        logits = self._request.infer([np.ascontiguousarray(images)], share_inputs=True)[OUTPUT_NAME]
        return np.array(logits, dtype=np.float32)
