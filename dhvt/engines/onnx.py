"""ONNX Runtime on the CPU."""

from __future__ import annotations

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from dhvt.artifact import INPUT_NAME, OUTPUT_NAME, Artifact
from dhvt.errors import EngineError


class OnnxRuntimeEngine:
    """Runs ``model.onnx`` in fp32.

    Raises:
        EngineError: ONNX Runtime cannot load the graph here.
    """

    name = "onnxruntime"
    concurrency = 1
    preferred_batch_size = None

    @staticmethod
    def precisions(artifact: Artifact) -> list[str]:
        """fp32 only."""
        return ["fp32"]

    def __init__(self, artifact: Artifact, precision: str, *, threads: int, max_batch_size: int, device: int = 0) -> None:
        self.precision = require_fp32(precision)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(
                artifact.graph_path, sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions have no common base but Exception
            raise EngineError(f"ONNX Runtime {onnxruntime.__version__} cannot load the graph: {error}") from error

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self._session.run([OUTPUT_NAME], {INPUT_NAME: images})[0]
        return logits


def require_fp32(precision: str) -> str:
    """The precision, if it is the graph's.

    Raises:
        EngineError: it is another.
    """
    if precision != "fp32":
        raise EngineError(f"ONNX Runtime runs the graph in fp32 only, not in {precision}")
    return precision
