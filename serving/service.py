"""The BentoML service: routes, and nothing else.

bentoml serve                             the bundled model
DHVT_MODEL=runs/mine/artifact bentoml serve
"""

from __future__ import annotations

import asyncio
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import bentoml
from PIL.Image import Image
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import JSONResponse

from dhvt.artifact import load_artifact
from dhvt.errors import DHVTError, ImageError
from dhvt.preprocess import preprocess
from serving.batching import Batcher
from serving.cpus import available_cpus
from serving.engines import check_engine, open_engine
from serving.errors import BadRequest, InternalError, Overloaded, RequestError, TimedOut, from_image_error
from serving.predictions import top_predictions
from serving.settings import Settings
from serving.uploads import Upload, read_upload

logger = logging.getLogger("bentoml.service.dhvt")

DEFAULT_TOP_K = 5


class ClassifyInput(bentoml.IODescriptor):
    """A picture, as multipart/form-data or as the body itself."""

    image: Image = Field(description="JPEG, PNG, WebP, BMP, GIF or TIFF file; its format is told by its bytes.")
    top_k: int = Field(default=DEFAULT_TOP_K, ge=1, description="How many classes to answer with; also as ?top_k=.")

    @classmethod
    async def from_http_request(cls, request: Request, serde: Any) -> ClassifyInput:
        """Hands the request on unread, so that every error is answered in our envelope."""
        request_as_input: ClassifyInput = cls.model_construct(image=request, top_k=DEFAULT_TOP_K)
        return request_as_input


class ScoredLabel(BaseModel):
    """One class and its probability."""

    label: str
    score: float = Field(ge=0, le=1)


class ClassifyOutput(BaseModel):
    """The most likely classes, best first."""

    model: str
    predictions: list[ScoredLabel]


@bentoml.service(name="dhvt", traffic={"timeout": 3600})  # the request's own limit is DHVT_REQUEST_TIMEOUT_S
class DHVTService:
    """Names what is on a picture."""

    def __init__(self) -> None:
        self.settings = settings = Settings.from_environ()
        self.artifact = load_artifact(settings.model)
        engine = open_engine(
            self.artifact, settings.engine, threads=settings.engine_threads(), max_batch_size=settings.max_batch_size
        ).engine
        self.batcher = Batcher(engine, max_batch_size=settings.max_batch_size)
        self.in_flight = 0
        self.decoders = ThreadPoolExecutor(available_cpus(), thread_name_prefix="decode")
        card = self.artifact.card
        logger.info("serving %s, %d classes, with %s in %s", card.name, len(card.classes), engine.name, engine.precision)

    @bentoml.on_deployment  # once, before any worker starts
    @staticmethod
    def check_model() -> None:
        """Ends the start with one line when the model cannot be served; a worker would be restarted for ever."""
        try:
            settings = Settings.from_environ()
            check_engine(
                load_artifact(settings.model),
                settings.engine,
                threads=settings.engine_threads(),
                max_batch_size=settings.max_batch_size,
            )
        except DHVTError as error:
            sys.exit(f"dhvt: {error}")

    @bentoml.api(input_spec=ClassifyInput, output_spec=ClassifyOutput, route="/classify")
    async def classify(self, image: Any, top_k: int) -> JSONResponse:
        """Classify one picture: `curl -F image=@cat.jpg 'localhost:3000/classify?top_k=3'`."""
        limit = self.settings.max_in_flight
        if self.in_flight >= limit:
            return Overloaded(f"{limit} requests are being answered already; try again in a second").to_response()
        self.in_flight += 1
        try:
            return JSONResponse(await asyncio.wait_for(self._classify(image), self.settings.request_timeout_s))
        except asyncio.TimeoutError:
            return TimedOut(f"no answer within {self.settings.request_timeout_s} s").to_response()
        except RequestError as error:
            return error.to_response()
        except Exception:
            logger.exception("a request failed for a reason that nobody foresaw")
            return InternalError("the server failed on this request; see its log").to_response()
        finally:
            self.in_flight -= 1

    async def _classify(self, request: Request) -> dict[str, Any]:
        upload = await read_upload(request, self.settings.max_upload_bytes)
        top_k = _parse_top_k(request, upload)
        loop = asyncio.get_running_loop()
        try:
            pixels = await loop.run_in_executor(self.decoders, self._decode, upload.image)
        except ImageError as error:
            raise from_image_error(error) from error
        logits = await self.batcher.predict(pixels)
        card = self.artifact.card
        return {"model": card.name, "predictions": top_predictions(logits, card, top_k)}

    def _decode(self, data: bytes) -> Any:
        return preprocess(data, self.artifact.card.preprocess, max_pixels=self.settings.max_pixels)


def _parse_top_k(request: Request, upload: Upload) -> int:
    text = request.query_params.get("top_k", upload.fields.get("top_k", str(DEFAULT_TOP_K)))
    if not (text.isascii() and text.isdigit() and int(text[:9]) >= 1):
        raise BadRequest(f"top_k is {text!r}; it must be a whole number of at least 1")
    return int(text[:9])
