"""The page at ``/``: one file without any reference to another host, and a policy that makes browsers refuse one."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from serving.http.response import HTML, Response

_PAGE = Path(__file__).parents[1] / "static" / "index.html"


@cache
def page_response() -> Response:
    """The page, with a Content-Security-Policy that allows its own script and style, and requests to this server alone."""
    text = _PAGE.read_text(encoding="utf-8")
    script, style = (_hash_of(text, element) for element in ("script", "style"))
    policy = [
        "default-src 'none'",
        f"script-src '{script}'",
        f"style-src '{style}'",
        "img-src blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    headers = {"Content-Security-Policy": "; ".join(policy), "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
    return Response(text.encode(), content_type=HTML, headers=headers)


def _hash_of(page: str, element: str) -> str:
    """The hash, as the policy names it, of the one inline element of this kind."""
    (content,) = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
