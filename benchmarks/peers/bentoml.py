"""BentoML as its documentation has it: a service with a batchable API, and one in front that takes the file ``image``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import bentoml
import numpy as np
from bentoml.validators import ContentType

from peers.served import MAX_BATCH_SIZE, Served


@bentoml.service
class Model:
    """Batches of pixels to logits."""

    def __init__(self) -> None:
        self.served = Served()

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH_SIZE)
    def predict(self, images: np.ndarray) -> np.ndarray:
        return self.served.engine.predict(images)


@bentoml.service(workers="cpu_count")
class Front:
    """Image to answer."""

    model = bentoml.depends(Model)

    def __init__(self) -> None:
        self.served = Served(threads=None)

    @bentoml.api
    async def classify(self, image: Annotated[Path, ContentType("image/*")]) -> dict[str, Any]:
        pixels = await asyncio.to_thread(self._decode, image)
        logits = await self.model.to_async.predict(pixels[None])
        return self.served.answer(logits[0])

    def _decode(self, image: Path) -> np.ndarray:
        return self.served.decode(image.read_bytes())
