"""One image of a request that carries several."""

from __future__ import annotations

from dataclasses import dataclass

from serving.errors import RequestError, TooLarge


@dataclass(frozen=True)
class UploadedImage:
    """A file's name with its bytes, or with the error why they cannot be read."""

    name: str
    data: bytes | RequestError

    @property
    def size(self) -> int:
        """Number of bytes that it holds in memory."""
        return len(self.data) if isinstance(self.data, bytes) else 0


def image_too_large(max_bytes: int) -> TooLarge:
    """Returns the error that stands in the place of such an image."""
    return TooLarge(f"the image is larger than {max_bytes:,} bytes")
