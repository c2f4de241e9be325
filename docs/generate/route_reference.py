"""The reference of the routes, from the service's OpenAPI document."""

from __future__ import annotations

import json
from typing import Any

from reference_markup import table
from serving.http.openapi import openapi_document

_LIMITS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below", "default": "default"}


def describe_routes() -> str:
    """A section for each route, then one for each schema."""
    document = openapi_document()
    routes = [
        _describe_route(method.upper(), path, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    schemas = [_describe_schema(name, schema) for name, schema in document["components"]["schemas"].items()]
    return "\n\n".join([*routes, "## Schemas", *schemas])


def _describe_route(method: str, path: str, operation: dict[str, Any]) -> str:
    sections = [f"## {method} {path}", f"{operation['summary']}.", operation["description"]]
    if parameters := operation.get("parameters"):
        rows = [[f"`{each['name']}`", _type(each["schema"]), each["description"]] for each in parameters]
        sections.append(table(["query parameter", "type", "what it does"], rows))
    if body := operation.get("requestBody"):
        rows = [[f"`{media}`", _describe_body(content["schema"])] for media, content in body["content"].items()]
        sections.append(table(["body", "content"], rows))
    rows = [[status, _describe_content(answer), answer["description"]] for status, answer in operation["responses"].items()]
    sections.append(table(["status", "answer", "when"], rows))
    success = operation["responses"]["200"]
    if headers := success.get("headers"):
        sections.append(table(["header", "content"], [[f"`{name}`", each["description"]] for name, each in headers.items()]))
    example = success["content"].get("application/json", {}).get("example")
    if example:
        sections.append(f"```json\n{json.dumps(example, indent=2, ensure_ascii=False)}\n```")
    return "\n\n".join(section for section in sections if section)


def _describe_content(answer: dict[str, Any]) -> str:
    return ", ".join(
        _type(content["schema"]) if media == "application/json" else f"`{media}`: {_type(content['schema'])}"
        for media, content in answer.get("content", {}).items()
    )


def _describe_body(schema: dict[str, Any]) -> str:
    if "properties" not in schema:
        return _type(schema)
    required = schema.get("required", ())
    return ", ".join(
        f"`{name}`: {_type(each)}{'' if name in required else ' (optional)'}" for name, each in schema["properties"].items()
    )


def _describe_schema(name: str, schema: dict[str, Any]) -> str:
    rows = [[f"`{field}`", _type(each), each.get("description", "")] for field, each in schema.get("properties", {}).items()]
    return "\n\n".join([f"### {name}", schema.get("description", ""), table(["field", "type", "content"], rows)])


def _type(schema: dict[str, Any]) -> str:
    """A schema in a few words, with a link where it is one of the named ones."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if schema.get("type") in ("array", "object"):
        return _describe_container(schema)
    if schema.get("format") == "binary" or "contentEncoding" in schema:
        return schema.get("contentEncoding", "file")
    notes = [f"{word} {schema[key]}" for key, word in _LIMITS.items() if schema.get(key) is not None]
    return schema.get("type", "any value") + (f" ({', '.join(notes)})" if notes else "")


def _describe_container(schema: dict[str, Any]) -> str:
    if schema["type"] == "object":
        values = schema.get("additionalProperties")
        return f"object of {_type(values)}" if isinstance(values, dict) else "object"
    items = [schema["items"]] if "items" in schema else schema.get("prefixItems", [])
    return f"list of {' and '.join(map(_type, items))}"
