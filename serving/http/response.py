"""What goes back over HTTP, whoever sends it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

JSON = "application/json"
JSON_LINES = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers and body; a body that is not bytes is sent as it comes."""

    body: bytes | AsyncGenerator[bytes, None]
    status: int = 200
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def to_json(value: Any) -> bytes:
    """Compact UTF-8; what no UTF-8 can say, such as a byte of a file name in another encoding, becomes ``?``."""
    return _encoder.encode(value).encode(errors="replace")
