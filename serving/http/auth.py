"""Authentication: bearer tokens for all routes but the health checks and the pages."""

from __future__ import annotations

import hmac
import os
import stat
from pathlib import Path

from dhvt.errors import ConfigError
from serving.errors import Unauthorized
from serving.http.page import PAGE_ROUTES
from serving.http.request import RequestContext
from serving.settings import PREFIX, Settings

HEALTH_ROUTES = frozenset({"/livez", "/readyz", "/healthz"})
OPEN_ROUTES = HEALTH_ROUTES | PAGE_ROUTES | {"/v2/health/live", "/v2/health/ready"}
"""Routes that need no token."""

_MAX_FILE_BYTES = 65_536


class TokenAuth:
    """Checks ``Authorization: Bearer TOKEN``.

    Args:
        settings: of this process; ``token`` and the lines of ``token_file`` all count, and without either nothing is checked.

    Raises:
        ConfigError: see :func:`read_tokens`.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tokens = read_tokens(settings)

    def reload(self) -> None:
        """Reads the file again.

        Raises:
            ConfigError: see :func:`read_tokens`; the tokens until then stay.
        """
        self._tokens = read_tokens(self._settings)

    def check(self, request: RequestContext) -> None:
        """Raises Unauthorized when the request needs a token and has not got one."""
        if not self._tokens or request.route in OPEN_ROUTES:
            return
        scheme, _, token = request.headers.get(b"authorization", b"").partition(b" ")
        token = token.strip()
        is_known = False
        for known in self._tokens:  # all of them, so that the time does not tell which one it was
            is_known |= hmac.compare_digest(token, known)
        if not is_known or scheme.lower() != b"bearer":
            raise Unauthorized("this server asks for a token; send the header Authorization: Bearer TOKEN")


def read_tokens(settings: Settings) -> tuple[bytes, ...]:
    """Returns the tokens of which clients must send one; none where they need not.

    Raises:
        ConfigError: the file cannot be read, others may read it, or it has no token.
    """
    tokens = [settings.token] if settings.token else []
    if settings.token_file:
        tokens += _read_file(Path(settings.token_file))
    return tuple(token.encode() for token in tokens)


def _read_file(path: Path) -> list[str]:
    """The file's lines that are not blank."""
    name = f"{PREFIX}TOKEN_FILE is {str(path)!r}"
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{name}, which cannot be read: {error.strerror or error}") from error
    # A file of another owner, such as root in Kubernetes, may be readable through its group, which is then the only way.
    private = stat.S_IRWXO | (stat.S_IRWXG if status.st_uid == os.geteuid() else stat.S_IWGRP)
    if status.st_mode & private:
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigError(f"{name}, which other users can access (mode {mode:04o}); make it private: chmod 600 {path}")
    if len(content) > _MAX_FILE_BYTES:
        raise ConfigError(f"{name}, which has more than {_MAX_FILE_BYTES:,} bytes; it must hold one token per line")
    try:
        tokens = [line.strip() for line in content.decode().splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}, which is not text in UTF-8; it must hold one token per line") from error
    if not tokens:
        raise ConfigError(f"{name}, which is empty; it must hold one token per line")
    if not all(token.isprintable() for token in tokens):
        raise ConfigError(f"{name}, where a token has a character in it that no header can carry")
    return tokens
