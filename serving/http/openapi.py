"""The OpenAPI document of the product's own routes."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic.json_schema import models_json_schema

from dhvt.explanation.explanation import DEFAULT_METHOD, METHODS
from dhvt.explanation.masking import DEFAULT_MASKS, LEAST_MASKS
from serving import errors
from serving.http import schemas
from serving.http.response import DIGEST_HEADER, ENGINE_HEADER, JSON, JSON_LINES, PNG, TIMING_HEADER
from serving.inference.options import DEFAULT_TOP_K

_DESCRIPTION = (
    "Names what is on an image. The routes below `/v2` are those of the Open Inference Protocol, whose specification "
    "describes them: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol"
)
_EXAMPLE = {"label": "cat", "score": 0.9321}
_MODEL = {"model": "hands", "version": "20261124-1a2b3c4d"}
_HEADERS = {
    DIGEST_HEADER: {
        "description": "Which model answered: a hash of everything that decides an answer.",
        "schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    },
    ENGINE_HEADER: {
        "description": "The engine and the precision that gave the answer, as `openvino:int8`; scores differ between them.",
        "schema": {"type": "string"},
    },
}
_TIMED_HEADERS = _HEADERS | {
    TIMING_HEADER: {
        "description": "Milliseconds of decoding, waiting and the engine call: `decode;dur=3.1, wait;dur=0.2, engine;dur=4.4`.",
        "schema": {"type": "string"},
    }
}
_BINARY = {"type": "string", "format": "binary"}
_TOP_K = {
    "name": "top_k",
    "in": "query",
    "description": "How many classes to return.",
    "schema": {"type": "integer", "minimum": 1, "default": DEFAULT_TOP_K},
}
_SHARE = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
_COVERAGE = {
    "name": "coverage",
    "in": "query",
    "description": "Adds `prediction_set`, the labels among which the right one is for this share of images like the model's "
    "reference images, as 0.95. Needs a model with reference images (`dhvt calibrate`), else 400.",
    "schema": _SHARE,
}
_BY_CLASS = {
    "name": "by_class",
    "in": "query",
    "description": "Whether `coverage` shall hold within each class, and not only on average over all. Sets become larger. "
    "Classes with too few reference images, 19 for 0.95, have it on average over these classes; "
    "`prediction_set_note` says so.",
    "schema": {"type": "boolean", "default": False},
}
_REJECT = {
    "name": "reject",
    "in": "query",
    "description": "Adds `p_known` and `known`: false for images that are as strange to the model as only this share of images "
    "like its reference images, as 0.01. Needs a model with enough reference images (`dhvt calibrate`), else 400.",
    "schema": _SHARE,
}
_PARAMETERS = [_TOP_K, _COVERAGE, _BY_CLASS, _REJECT]
_METHOD = {
    "name": "method",
    "in": "query",
    "description": "`masking`: where the class becomes more likely when a place is shown, for any model. `head-tokens`, "
    "`rollout`: attention of a DHVT, the same for every class; 400 for other models.",
    "schema": {"type": "string", "enum": list(METHODS), "default": DEFAULT_METHOD},
}
_LABEL = {
    "name": "label",
    "in": "query",
    "description": "The class to explain; the most likely one where it is absent.",
    "schema": {"type": "string"},
}
_LAYER = {
    "name": "layer",
    "in": "query",
    "description": "Whose attention; the last where it is absent. Not with `masking`.",
    "schema": {"type": "integer", "minimum": 1},
}
_MASKS = {
    "name": "masks",
    "in": "query",
    "description": f"Masked images to classify with `masking`, up to `DHVT_EXPLAIN_MASKS`: {DEFAULT_MASKS} where it is absent. "
    "More give a map with less noise.",
    "schema": {"type": "integer", "minimum": LEAST_MASKS},
}
_EXPLANATION = {
    "method": "masking",
    "label": "cat",
    "score": 0.9321,
    "size": [32, 32],
    "masks": 400,
    "maps": [{"name": "masking", "values": [[0.0012, 0.0154]]}],
}
_ONE_FILE = {"type": "object", "required": ["image"], "properties": {"image": _BINARY, "top_k": _TOP_K["schema"]}}
_FILES = {"type": "object", "required": ["image"], "properties": {"image": {"type": "array", "items": _BINARY}}}
_BASE64 = {"type": "string", "contentEncoding": "base64", "description": "Base64, also after `data:image/…;base64,`."}
_JSON_IMAGE = {
    "type": "object",
    "required": ["image"],
    "properties": {"image": _BASE64, "top_k": _TOP_K["schema"]},
    "additionalProperties": False,
}
_JSON_IMAGES = {
    "type": "object",
    "required": ["images"],
    "properties": {"images": {"type": "array", "items": _BASE64, "minItems": 1}, "top_k": _TOP_K["schema"]},
    "additionalProperties": False,
}
_IMAGE_ERRORS = (errors.BadRequest, errors.InvalidImage, errors.TooLarge, errors.UnsupportedMedia, errors.EngineFailed)
_COMMON_ERRORS = (errors.Unauthorized, errors.InternalError, errors.TimedOut)


def _without_top_k(schema: dict[str, Any]) -> dict[str, Any]:
    return schema | {"properties": {"image": schema["properties"]["image"]}}


@cache
def openapi_document() -> dict[str, Any]:
    """Returns the OpenAPI 3.1 document."""
    answers = (schemas.ClassifyOutput, schemas.BatchOutput, schemas.BatchLine, schemas.ExplainOutput)
    bodies = (*answers, schemas.Info, schemas.Drift, schemas.Error)
    models: list[Any] = [(body, "serialization") for body in bodies]
    _, definitions = models_json_schema(models, ref_template="#/components/schemas/{model}")
    images = {"image/*": {"schema": _BINARY}, "application/octet-stream": {"schema": _BINARY}}
    archives = {"application/x-tar": {"schema": _BINARY}, "application/zip": {"schema": _BINARY}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "DHVT Serve", "version": product_version(), "description": _DESCRIPTION},
        "paths": {
            "/classify": {
                "post": _operation(
                    "Classify one image",
                    "`curl -F image=@cat.jpg 'localhost:3000/classify?top_k=3'`",
                    schemas.ClassifyOutput,
                    {**_MODEL, "predictions": [_EXAMPLE]},
                    (*_IMAGE_ERRORS, errors.Overloaded),
                    parameters=_PARAMETERS,
                    headers=_TIMED_HEADERS,
                    body={"multipart/form-data": {"schema": _ONE_FILE}, JSON: {"schema": _JSON_IMAGE}, **images},
                )
            },
            "/classify/batch": {
                "post": _operation(
                    "Classify many images",
                    "`curl -F image=@a.jpg -F image=@b.jpg localhost:3000/classify/batch`, or a tar or zip archive, or JSON "
                    "with base64, as body. Results are in the order of the images; one that cannot be read has an `error` in "
                    "its place. With "
                    f"`Accept: {JSON_LINES}` each result is sent as a line of JSON as soon as it is there; an "
                    "error that ends the request early is then the last line.",
                    schemas.BatchOutput,
                    {**_MODEL, "results": [{"name": "a.jpg", "predictions": [_EXAMPLE]}]},
                    (*_IMAGE_ERRORS, errors.Overloaded),
                    parameters=_PARAMETERS,
                    body={"multipart/form-data": {"schema": _FILES}, JSON: {"schema": _JSON_IMAGES}, **archives},
                    also={JSON_LINES: {"schema": {"anyOf": [_refer("BatchLine"), _refer("Error")]}}},
                )
            },
            "/explain": {
                "post": _operation(
                    "Explain an answer",
                    "`curl -F image=@cat.jpg -H 'Accept: image/png' localhost:3000/explain -o why.png`. Maps of what in the "
                    f"image the class depends on, as JSON, or drawn with `Accept: {PNG}`. Each worker explains one image at a "
                    "time, a few masked images at once between those of other requests.",
                    schemas.ExplainOutput,
                    {**_MODEL, **_EXPLANATION},
                    (*_IMAGE_ERRORS, errors.NotFound, errors.Overloaded),
                    parameters=[_LABEL, _METHOD, _LAYER, _MASKS],
                    body={
                        "multipart/form-data": {"schema": _without_top_k(_ONE_FILE)},
                        JSON: {"schema": _without_top_k(_JSON_IMAGE)},
                        **images,
                    },
                    also={PNG: {"schema": _BINARY}},
                )
            },
            "/info": {"get": _operation("What is served, by what, within which limits", "", schemas.Info, None, ())},
            "/drift": {
                "get": _operation(
                    "Whether the images have changed",
                    "A test against the images that `dhvt calibrate` measured; its bound on false alarms holds at any time.",
                    schemas.Drift,
                    None,
                    (errors.NotFound,),
                )
            },
            "/reload": {
                "post": _operation(
                    "Reload the model",
                    "The old model serves until the new one is proved. Needs a server with DHVT_TOKEN or DHVT_TOKEN_FILE.",
                    schemas.Info,
                    None,
                    (errors.NotReloaded,),
                )
            },
        },
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "Where the server has tokens."}},
        },
        "security": [{}, {"token": []}],
    }


def _operation(
    summary: str,
    description: str,
    output: type,
    example: Any,
    kinds: tuple[type[errors.RequestError], ...],
    *,
    parameters: list[Any] | None = None,
    body: dict[str, Any] | None = None,
    also: dict[str, Any] | None = None,
    headers: dict[str, Any] = _HEADERS,
) -> dict[str, Any]:
    body_content = {"schema": _refer(output.__name__)} | ({"example": example} if example else {})
    content = {JSON: body_content, **(also or {})}
    success = {"description": (output.__doc__ or "").strip(), "headers": headers, "content": content}
    operation = {
        "summary": summary,
        "description": description,
        "responses": {"200": success} | _error_responses((*kinds, *_COMMON_ERRORS)),
    }
    if parameters:
        operation["parameters"] = parameters
    if body:
        operation["requestBody"] = {"required": True, "content": body}
    return operation


def _refer(schema: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{schema}"}


def _error_responses(kinds: tuple[type[errors.RequestError], ...]) -> dict[str, Any]:
    by_status: dict[str, list[type[errors.RequestError]]] = {}
    for kind in sorted(kinds, key=lambda kind: kind.status):
        by_status.setdefault(str(kind.status), []).append(kind)
    return {
        status: {
            "description": " Or: ".join(f"`{kind.code}`: {(kind.__doc__ or '').strip()}" for kind in group),
            "content": {JSON: {"schema": _refer("Error")}},
        }
        for status, group in by_status.items()
    }


def product_version() -> str:
    """Returns the version of this package, ``0`` where it is not installed."""
    try:
        return version("dhvt-serve")
    except PackageNotFoundError:  # served from a folder, not installed
        return "0"
