"""The Open Inference Protocol (KServe's and Triton's V2) over HTTP: what its routes answer.

Metadata, tensors and the binary tensor data extension are turned into calls of the same scheduler as ``/classify`` makes;
:mod:`serving.http.lifecycle` has the same token, limits and metrics for these routes as for all.
"""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from dhvt.data.text import encodable
from dhvt.ranking import Ranking
from serving.errors import NotFound, NotReady, RequestError, UnsupportedMedia
from serving.http.request import RequestContext, parse_top_k, read_body
from serving.http.response import Response, error_response, model_headers, to_json
from serving.inference.model import ServedModel
from serving.inference.multi import OfferSample
from serving.settings import Settings
from serving.uploads.json_body import max_json_bytes
from serving.uploads.tensors import HEADER_LENGTH, Image, InferRequest, read_infer_request

_MODEL = r"/v2/models/(?P<name>[^/]+)(/versions/(?P<version>[^/]+))?"
_PATTERNS = {
    "/v2/models/{name}": re.compile(_MODEL),
    "/v2/models/{name}/ready": re.compile(_MODEL + "/ready"),
    "/v2/models/{name}/infer": re.compile(_MODEL + "/infer"),
}


def match_path(path: str) -> str:
    """Returns the route of a path: one of few templates for all names and versions; a path of another kind unchanged."""
    if not path.startswith("/v2/models/"):
        return path
    return next((template for template, pattern in _PATTERNS.items() if pattern.fullmatch(path)), path)


def report_error(error: RequestError, path: str) -> Response:
    """Returns the response that reports an error: in our envelope, or on the protocol's paths, as it wants them, one string."""
    response = error_response(error)
    if path != "/v2" and not path.startswith("/v2/"):
        return response
    return replace(response, body=to_json({"error": f"{error.code}: {error.message}"}))


def server_metadata(version: str) -> Response:
    """``GET /v2``."""
    return Response(to_json({"name": "dhvt", "version": version, "extensions": ["binary_tensor_data"]}))


async def readiness(model: ServedModel) -> Response:
    """``GET /v2/health/ready`` and ``GET /v2/models/{name}/ready``.

    Raises:
        NotReady: the engine fails.
    """
    if not await model.is_healthy():
        raise NotReady("the engine failed several times in a row; see the server's log")
    return Response(b"")


def check_name(request: RequestContext, model: ServedModel) -> None:
    """Raises NotFound where a path names another model or version than the one that serves."""
    card = model.artifact.card
    found = re.match(_MODEL, request.path)
    assert found is not None
    if found["name"] != card.name or found["version"] not in (None, card.version):
        asked = f"{found['name'][:100]!r}" + (f", version {found['version'][:100]!r}" if found["version"] else "")
        raise NotFound(f"this server has no model {asked}; it serves {card.name!r}, version {card.version!r}")


def model_metadata(model: ServedModel) -> Response:
    """``GET /v2/models/{name}``; of the two inputs a request has one."""
    card, size = model.artifact.card, model.artifact.card.preprocess.size
    tensors = {
        "inputs": [("image", "BYTES", [-1]), ("images", "UINT8", [-1, *size, 3])],
        "outputs": [("label", "BYTES", [-1, -1]), ("score", "FP32", [-1, -1]), ("logits", "FP32", [-1, len(card.classes)])],
    }
    described = {
        kind: [{"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in rows]
        for kind, rows in tensors.items()
    }
    body = to_json({"name": card.name, "versions": [card.version], "platform": "dhvt", **described})
    return Response(body, headers=model_headers(model))


async def infer(request: RequestContext, model: ServedModel, settings: Settings, offer_sample: OfferSample) -> Response:
    """``POST /v2/models/{name}/infer``.

    Raises:
        RequestError: the request cannot be read, or an image of it not be classified; the others are then cancelled.
    """
    encoding = request.headers.get(b"content-encoding", b"identity").decode("latin-1")
    if encoding != "identity":
        raise UnsupportedMedia(f"Content-Encoding is {encoding[:100]!r}; images are compressed already, send them as they are")
    limit = max_json_bytes(settings.max_upload_bytes)
    json_length = request.headers.get(HEADER_LENGTH.lower().encode())
    asked = read_infer_request(
        await read_body(request, limit, f"the request is larger than {limit:,} bytes; send several"),  # not kept
        json_length, model.artifact.card.preprocess.size, settings,
    )  # fmt: skip
    top_k = parse_top_k(request, asked.fields)
    rankings = await _classify_all(model, asked.images)
    for image, ranking in zip(asked.images, rankings, strict=True):
        if isinstance(image, bytes):
            offer_sample(image, ranking, model.artifact.card)
    return _write_response(asked, top_k, rankings, model)


async def _classify_all(model: ServedModel, images: Sequence[Image]) -> list[Ranking]:
    """The rankings of all images.

    Raises:
        RequestError: the first that one of them has; with several images, its message tells which.
    """
    scheduler = model.scheduler
    futures = [
        scheduler.submit(image) if isinstance(image, bytes) else scheduler.submit_preprocessed(image) for image in images
    ]
    try:
        await asyncio.wait(futures, return_when=asyncio.FIRST_EXCEPTION)
        for position, future in enumerate(futures):
            error = future.exception() if future.done() else None
            if isinstance(error, RequestError) and len(futures) > 1:
                raise type(error)(f"image {position}: {error}") from None
        return [future.result() for future in futures]
    finally:
        for future in futures:
            if not future.cancel() and not future.cancelled():
                future.exception()  # or asyncio would log that nobody asked for it
        del futures  # or an error's traceback would hold this frame, and this the futures and their images


def _write_response(asked: InferRequest, top_k: int, rankings: Sequence[Ranking], model: ServedModel) -> Response:
    card = model.artifact.card
    tops = [ranking.top(card, top_k) for ranking in rankings]
    described: list[dict[str, Any]] = []
    chunks: list[bytes] = []
    encode: dict[str, Callable[[], _Encoded]] = {
        "label": lambda: _encode_text([[entry["label"] for entry in top] for top in tops]),
        "score": lambda: _encode_numbers([[entry["score"] for entry in top] for top in tops]),
        "logits": lambda: _encode_numbers([ranking.logits.tolist() for ranking in rankings]),
    }
    for name, is_binary in asked.outputs.items():
        tensor, data, encoded = encode[name]()
        if is_binary:
            chunks.append(encoded)
        content: dict[str, Any] = {"parameters": {"binary_data_size": len(encoded)}} if is_binary else {"data": data}
        described.append({"name": name, **tensor, **content})
    identity = {} if asked.id is None else {"id": asked.id}
    head = to_json({"model_name": card.name, "model_version": card.version, **identity, "outputs": described})
    headers = model_headers(model)
    if not chunks:
        return Response(head, headers=headers)
    headers[HEADER_LENGTH] = str(len(head))
    return Response(head + b"".join(chunks), content_type="application/octet-stream", headers=headers)


_Encoded = tuple[dict[str, Any], Sequence[str | float], bytes]
"""Datatype and shape of a tensor, its values in a row, for JSON, and its binary data."""


def _encode_text(rows: list[list[str]]) -> _Encoded:
    """A tensor of texts; in binary data each has its length before it."""
    values = [value for row in rows for value in row]
    encoded = b"".join(struct.pack("<I", len(text)) + text for text in (encodable(value).encode() for value in values))
    return {"datatype": "BYTES", "shape": [len(rows), len(rows[0])]}, values, encoded


def _encode_numbers(rows: list[list[float]]) -> _Encoded:
    """A tensor of numbers."""
    values = [value for row in rows for value in row]
    return {"datatype": "FP32", "shape": [len(rows), len(rows[0])]}, values, struct.pack(f"<{len(values)}f", *values)
