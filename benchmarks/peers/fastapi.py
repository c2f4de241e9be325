"""FastAPI as most would write it: each image on its own, in a thread. Takes multipart/form-data with the file ``image``."""

from __future__ import annotations

from threading import Semaphore
from typing import Any

from fastapi import FastAPI, UploadFile
from fastapi.concurrency import run_in_threadpool

from peers.served import Served

app = FastAPI()
served = Served()
engine_free = Semaphore(served.engine.concurrency)


def _classify(data: bytes) -> dict[str, Any]:
    pixels = served.decode(data)
    with engine_free:
        logits = served.predict([pixels])
    return served.answer(logits[0])


@app.post("/classify")
async def classify(image: UploadFile) -> dict[str, Any]:
    return await run_in_threadpool(_classify, await image.read())
