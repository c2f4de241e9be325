"""mosec: a stage of processes that decode, and one that predicts in batches. Takes the raw file as the body."""

from __future__ import annotations

from typing import Any

import numpy as np
from mosec import Server, ValidationError, Worker
from numpy.typing import NDArray

from dhvt.errors import ImageError
from dhvt.hardware.cpus import available_cpus
from peers.served import MAX_BATCH_SIZE, Served


class Decode(Worker):
    """Raw file to pixels; one process per processor."""

    def __init__(self) -> None:
        self.served = Served(threads=None)

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> NDArray[np.uint8]:
        try:
            return self.served.decode(data)
        except ImageError as error:
            raise ValidationError(str(error)) from error


class Predict(Worker):
    """A batch of pixels to answers, with the engine on all processors."""

    def __init__(self) -> None:
        self.served = Served()

    def forward(self, data: list[NDArray[np.uint8]]) -> list[dict[str, Any]]:
        return [self.served.answer(logits) for logits in self.served.predict(data)]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Decode, num=available_cpus())
    server.append_worker(Predict, max_batch_size=MAX_BATCH_SIZE, max_wait_time=1)
    server.run()
