"""What a client sees when it goes wrong: one class per status, one JSON envelope.

RequestError
├── BadRequest 400            malformed body, wrong field, no file
│   └── InvalidImage 400      an image that is empty, truncated or damaged
├── TooLarge 413              too many bytes or pixels
├── UnsupportedMedia 415      neither multipart nor an image we decode
├── InternalError 500         a fault of this server
├── EngineFailed 500          the engine raised; the server goes on
├── Overloaded 503            too many requests at once
└── TimedOut 504              no answer in time
"""

from __future__ import annotations

from typing import ClassVar

from starlette.responses import JSONResponse

from dhvt.errors import ImageError
from dhvt.preprocess import ImageTooLargeError, UnsupportedFormatError


class RequestError(Exception):
    """A request that is answered with an error.

    Args:
        message: for a person: what was received, what was expected, how to fix it.
    """

    status = 400
    code = "bad_request"
    headers: ClassVar[dict[str, str]] = {}

    @property
    def message(self) -> str:
        return str(self)

    def to_dict(self) -> dict[str, dict[str, str]]:
        """``{"error": {"code": …, "message": …}}``."""
        return {"error": {"code": self.code, "message": self.message}}

    def to_response(self) -> JSONResponse:
        """The HTTP answer."""
        return JSONResponse(self.to_dict(), status_code=self.status, headers=self.headers)


class BadRequest(RequestError):
    """The body or a parameter is not as documented."""


class InvalidImage(BadRequest):
    """The file is empty, truncated or damaged."""

    code = "invalid_image"


class TooLarge(RequestError):
    """More bytes or pixels than the settings allow."""

    status = 413
    code = "too_large"


class UnsupportedMedia(RequestError):
    """A content type or a picture format that is not accepted."""

    status = 415
    code = "unsupported_media_type"


class InternalError(RequestError):
    """A fault of this server."""

    status = 500
    code = "internal_error"


class EngineFailed(RequestError):
    """The engine raised while it ran this request's batch."""

    status = 500
    code = "engine_failed"


class Overloaded(RequestError):
    """More requests are in flight than the settings allow."""

    status = 503
    code = "overloaded"
    headers: ClassVar[dict[str, str]] = {"Retry-After": "1"}


class TimedOut(RequestError):
    """The request was not answered within the time allowed."""

    status = 504
    code = "timed_out"


def from_image_error(error: ImageError) -> RequestError:
    """The HTTP side of a picture that could not be decoded."""
    if isinstance(error, ImageTooLargeError):
        return TooLarge(str(error))
    if isinstance(error, UnsupportedFormatError):
        return UnsupportedMedia(str(error))
    return InvalidImage(str(error))
