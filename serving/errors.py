"""HTTP errors: one class per status and code, all in one JSON envelope.

RequestError
├── BadRequest 400            malformed body, wrong field, no file
│   └── InvalidImage 400      an image that is empty, truncated or damaged
├── Unauthorized 401          no token, or a wrong one
├── NotFound 404, WrongMethod 405
├── NotReloaded 409           the new model cannot be served
├── TooLarge 413              too many bytes or pixels
├── UnsupportedMedia 415      neither multipart nor an image we decode
├── InternalError 500         a fault of this server
├── EngineFailed 500          the engine raised, or returned NaN; the server goes on
├── Overloaded 503            too many requests at once
├── NotReady 503              the engine failed several times in a row
└── TimedOut 504              no response in time
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from dhvt.data.bounds import ImageTooLargeError
from dhvt.data.decode import UnsupportedFormatError
from dhvt.errors import ImageError


class RequestError(Exception):
    """Base of all HTTP errors.

    Args:
        message: for people: what was received, what was expected, how to fix it.
    """

    status = 400
    code = "bad_request"
    headers: Mapping[str, str] = MappingProxyType({})

    @property
    def message(self) -> str:
        return str(self)

    def to_dict(self) -> dict[str, dict[str, str]]:
        """``{"error": {"code": …, "message": …}}``."""
        return {"error": {"code": self.code, "message": self.message}}


class BadRequest(RequestError):
    """The body or a parameter is not as documented."""


class InvalidImage(BadRequest):
    """The file is empty, truncated or damaged."""

    code = "invalid_image"


class Unauthorized(RequestError):
    """The server asks for a token, and the request has none or a wrong one."""

    status = 401
    code = "unauthorized"
    headers = MappingProxyType({"WWW-Authenticate": "Bearer"})


class NotFound(RequestError):
    """No such route."""

    status = 404
    code = "not_found"


class WrongMethod(RequestError):
    """The route does not answer this HTTP method."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, allowed: str) -> None:
        super().__init__(message)
        self.headers = {"Allow": allowed}


class NotReloaded(RequestError):
    """The new model cannot be served; the old one stays."""

    status = 409
    code = "not_reloaded"


class TooLarge(RequestError):
    """More bytes or pixels than the settings allow."""

    status = 413
    code = "too_large"


class UnsupportedMedia(RequestError):
    """A content type or an image format that is not accepted."""

    status = 415
    code = "unsupported_media_type"


class InternalError(RequestError):
    """A fault of this server."""

    status = 500
    code = "internal_error"


class EngineFailed(RequestError):
    """The engine raised while it ran this image's inference batch, or its logits are not finite."""

    status = 500
    code = "engine_failed"


class Overloaded(RequestError):
    """More requests are in flight than the settings allow."""

    status = 503
    code = "overloaded"

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.headers = {"Retry-After": str(retry_after_s)}


class NotReady(RequestError):
    """The engine failed several times in a row; health checks report this, and load balancers stop sending requests."""

    status = 503
    code = "not_ready"


class TimedOut(RequestError):
    """The request took longer than the time allowed."""

    status = 504
    code = "timed_out"


def from_image_error(error: ImageError) -> RequestError:
    """Returns the HTTP error for an image that could not be decoded."""
    if isinstance(error, ImageTooLargeError):
        return TooLarge(str(error))
    if isinstance(error, UnsupportedFormatError):
        return UnsupportedMedia(str(error))
    return InvalidImage(str(error))
