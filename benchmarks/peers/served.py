"""What every peer serves: our artifact, our engine, our decoding, our answer. Only what lies between differs.

With ``PEER_ENGINE=plain`` a peer calls OpenVINO as its documentation has it, and as who writes such a server would: the
same graph in the same precision, compiled once for batches of any size.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhvt.artifact import Artifact, load_artifact
from dhvt.data.preprocess import preprocess_image
from dhvt.engines import Engine, open_engine
from dhvt.ranking import rank
from serving.settings import Settings

MAX_BATCH_SIZE = 32
TOP_K = 5
_IS_PLAIN = os.environ.get("PEER_ENGINE") == "plain"


class PlainOpenVINO:
    """An engine without :class:`dhvt.engines.openvino.ChunkedModel`.

    Args:
        artifact: whose graph is run.
        precision: ``fp32`` or ``bf16``.
    """

    concurrency = 1

    def __init__(self, artifact: Artifact, precision: str) -> None:
        import openvino

        self.name, self.precision = "openvino", precision
        options = {"INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision]}
        self._compiled = openvino.Core().compile_model(artifact.graph_path, "CPU", options)

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self._compiled(images)[0]
        return logits


class Served:
    """The three steps of an answer.

    Args:
        threads: of the engine; 0 takes all, None opens no engine, for a process that only decodes.
    """

    def __init__(self, threads: int | None = 0) -> None:
        settings = Settings.from_environ()
        artifact = load_artifact(settings.model_path())
        self.card = artifact.card
        if threads is not None:
            threads = threads or settings.engine_threads()
            engine = open_engine(artifact, settings.engine, threads=threads, max_batch_size=MAX_BATCH_SIZE).engine
            self.engine: Engine | PlainOpenVINO = engine
            if _IS_PLAIN:
                if engine.name != "openvino" or engine.precision not in ("fp32", "bf16"):
                    raise RuntimeError(f"{engine.name}:{engine.precision} serves here; plain is OpenVINO in fp32 or bf16")
                self.engine = PlainOpenVINO(artifact, engine.precision)

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """An encoded image to ``(H, W, 3)``."""
        return preprocess_image(data, self.card.preprocess)

    def predict(self, images: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Decoded images to logits ``(len(images), classes)``."""
        return self.engine.predict(np.stack(images))

    def answer(self, logits: NDArray[np.float32]) -> dict[str, Any]:
        """One image's logits to what is sent as JSON."""
        return {"model": self.card.name, "predictions": rank(logits[None], self.card)[0].top(self.card, TOP_K)}
