"""Requests and answers as BentoML's clients and the OpenAPI document know them; no request is checked against them."""

from __future__ import annotations

from typing import Any

import bentoml
from PIL.Image import Image
from pydantic import BaseModel, Field
from starlette.requests import Request

from serving.http.request import DEFAULT_TOP_K


class _Unread(bentoml.IODescriptor):
    """Input that is handed on as the request, unread, so that every error is answered in our envelope."""

    @classmethod
    async def from_http_request(cls, request: Request, serde: Any) -> _Unread:
        unread: _Unread = cls.model_construct(**dict.fromkeys(cls.model_fields, request))
        return unread


class ClassifyInput(_Unread):
    """An image, as multipart/form-data or as the body itself."""

    image: Image = Field(description="JPEG, PNG, WebP, BMP, GIF or TIFF file; its format is told by its bytes.")
    top_k: int = Field(default=DEFAULT_TOP_K, ge=1, description="How many classes to answer with; also as ?top_k=.")


class BatchInput(_Unread):
    """Images, as a form with several files; the body may be a tar or zip archive instead."""

    image: list[Image] = Field(description="Files, each a part named image.")


class ScoredLabel(BaseModel):
    """One class and its probability."""

    label: str
    score: float = Field(ge=0, le=1)


class ErrorDetail(BaseModel):
    """What went wrong: a code for programs, a message for people."""

    code: str
    message: str


class Error(BaseModel):
    """The body of every answer that is not 200."""

    error: ErrorDetail


class ClassifyOutput(BaseModel):
    """The most likely classes, best first."""

    model: str
    predictions: list[ScoredLabel]


class BatchResult(BaseModel):
    """One image's classes, or its error."""

    name: str = Field(description="The file's name, as it was sent.")
    predictions: list[ScoredLabel] | None = None
    error: ErrorDetail | None = None


class BatchOutput(BaseModel):
    """A result for each image, in their order."""

    model: str
    results: list[BatchResult]


class Info(BaseModel):
    """The model card, the engine and the limits."""

    model: str
    classes: list[str]
    digest: str = Field(description="A hash of everything that the engine computes from.")
    files: dict[str, str] = Field(description="SHA-256 by file name.")
    metrics: dict[str, Any] = Field(description="Measured in training, and under test what dhvt evaluate recorded.")
    preprocess: dict[str, Any]
    temperature: float = Field(description="What logits are divided by before they become scores.")
    engine: dict[str, Any] = Field(description="What runs the graph, and why the engines before it do not.")
    limits: dict[str, int] = Field(description="The settings of these names.")
