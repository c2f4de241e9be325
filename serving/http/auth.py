"""Authentication: one bearer token for all routes but the health checks."""

from __future__ import annotations

import hmac

from serving.errors import Unauthorized
from serving.http.request import RequestContext

HEALTH_ROUTES = frozenset({"/livez", "/readyz", "/healthz"})


class TokenAuth:
    """Checks ``Authorization: Bearer TOKEN``.

    Args:
        token: what clients must send; empty for no check.
    """

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    def check(self, request: RequestContext) -> None:
        """Raises Unauthorized when the request needs the token and has not got it."""
        if not self._token or request.path in HEALTH_ROUTES:
            return
        scheme, _, token = request.headers.get(b"authorization", b"").partition(b" ")
        if not hmac.compare_digest(token.strip(), self._token) or scheme.lower() != b"bearer":
            raise Unauthorized("this server asks for a token; send the header Authorization: Bearer TOKEN")
