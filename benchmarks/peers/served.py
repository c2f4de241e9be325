"""What every peer serves: our artifact, our engine, our decoding, our answer. Only what lies between differs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhvt.artifact import load_artifact
from dhvt.preprocess import preprocess
from serving.engines import open_engine
from serving.predictions import rank
from serving.settings import Settings

MAX_BATCH_SIZE = 32
TOP_K = 5


class Served:
    """The three steps of an answer.

    Args:
        threads: of the engine; 0 takes all, None opens no engine, for a process that only decodes.
    """

    def __init__(self, threads: int | None = 0) -> None:
        settings = Settings.from_environ()
        self.card = load_artifact(settings.model_path()).card
        if threads is not None:
            self.engine = open_engine(
                load_artifact(settings.model_path()),
                settings.engine,
                threads=threads or settings.engine_threads(),
                max_batch_size=MAX_BATCH_SIZE,
            ).engine

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """An encoded picture to ``(H, W, 3)``."""
        return preprocess(data, self.card.preprocess)

    def predict(self, images: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Decoded pictures to logits ``(len(images), classes)``."""
        return self.engine.predict(np.stack(images))

    def answer(self, logits: NDArray[np.float32]) -> dict[str, Any]:
        """One picture's logits to what is sent as JSON."""
        return {"model": self.card.name, "predictions": rank(logits[None], self.card)[0].top(self.card, TOP_K)}
