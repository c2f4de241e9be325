"""LitServe: batches in one worker, which decodes them in threads. Takes multipart/form-data with the file ``image``."""

import argparse
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import litserve
import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request

from dhvt.hardware.cpus import available_cpus
from peers.served import MAX_BATCH_SIZE, Served


class ClassifyAPI(litserve.LitAPI):
    """Decoding is in ``batch``, because ``decode_request`` is called for one image after the other."""

    def setup(self, device: str) -> None:
        self.served = Served()
        self.decoders = ThreadPoolExecutor(available_cpus())

    def decode_request(self, request: Request) -> bytes:
        return request["image"].file.read()

    def batch(self, inputs: list[bytes]) -> list[NDArray[np.uint8]]:
        return list(self.decoders.map(self.served.decode, inputs))

    def predict(self, images: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        return self.served.predict(images)

    def unbatch(self, logits: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return list(logits)

    def encode_response(self, logits: NDArray[np.float32]) -> dict[str, Any]:
        return self.served.answer(logits)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    api = ClassifyAPI(max_batch_size=MAX_BATCH_SIZE, batch_timeout=0.01)
    server = litserve.LitServer(api, accelerator="cpu", fast_queue=True)
    server.run(host="127.0.0.1", port=parser.parse_args().port, generate_client_file=False, access_log=False)
