"""The attention of a DHVT's layers, from the artifact's graph that gives it; see "The graph with the attention" in
docs/artifact.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhvt.artifact import EXPLAIN, INPUT_NAME, OUTPUT_NAME, Artifact
from dhvt.card import CLASS_ATTENTION, GRID_KEY, HEAD_TOKEN_ATTENTION, ROLLOUT
from dhvt.engines.selftest import self_test
from dhvt.errors import ArtifactError, EngineError


@dataclass(frozen=True)
class Attention:
    """The attention that one image got, on its grid of patches: L layers, h head tokens.

    Args:
        class_token: ``(L, gh, gw)``, of the class token to the patches; a row of attention sums to 1 with the other tokens.
        head_tokens: ``(L, h, gh, gw)``.
        rollout: ``(L, gh, gw)``, of the class token after each layer, down to the image.
    """

    class_token: NDArray[np.float32]
    head_tokens: NDArray[np.float32]
    rollout: NDArray[np.float32]

    @property
    def layers(self) -> int:
        """How many there are."""
        return len(self.rollout)


class AttentionGraph:
    """Runs ``model.explain.onnx`` in ONNX Runtime on the processor, once it has passed the artifact's self-test.

    Args:
        artifact: one that has the graph.
        threads: of the processor; 0 takes all.

    Raises:
        EngineError: ONNX Runtime is missing, cannot load the graph, or gives other logits than were exported.
    """

    name = "the graph with the attention"
    precision = "fp32"
    concurrency = 1
    preferred_batch_size = None

    def __init__(self, artifact: Artifact, threads: int = 0) -> None:
        variant = artifact.find_variant(format=EXPLAIN)
        assert variant is not None
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineError("attention maps need ONNX Runtime, which is not installed; pip install onnxruntime") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        path = artifact.path_of(variant)
        try:
            self._session: Any = onnxruntime.InferenceSession(path, sess_options=options, providers=["CPUExecutionProvider"])
            rows, columns = self._session.get_modelmeta().custom_metadata_map[GRID_KEY].split()
        except Exception as error:  # its exceptions have no common base but Exception
            raise EngineError(f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {error}") from error
        try:
            artifact.check_files()  # this may be days after the model was loaded
        except ArtifactError as error:
            raise EngineError(f"the model in {artifact.path} was replaced since it was loaded; load it again") from error
        self._grid = (int(rows), int(columns))
        self_test(self, artifact, (1,))

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The logits, as of any engine."""
        logits: NDArray[np.float32] = self._session.run([OUTPUT_NAME], {INPUT_NAME: images})[0]
        return logits

    def run(self, pixels: NDArray[np.uint8]) -> Attention:
        """The attention in the network's input, ``(H, W, 3)``."""
        outputs = self._session.run([CLASS_ATTENTION, HEAD_TOKEN_ATTENTION, ROLLOUT], {INPUT_NAME: pixels[None]})
        return Attention(*(values[0].reshape(*values.shape[1:-1], *self._grid) for values in outputs))
