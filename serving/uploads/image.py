"""An image of a request that carries several."""

from __future__ import annotations

from dataclasses import dataclass

from serving.http.errors import RequestError, TooLarge


@dataclass(frozen=True)
class UploadedImage:
    """A file of a batch by its name, or why it cannot be had."""

    name: str
    data: bytes | RequestError

    @property
    def size(self) -> int:
        """Bytes that it holds in memory."""
        return len(self.data) if isinstance(self.data, bytes) else 0


def image_too_large(max_bytes: int) -> TooLarge:
    """In place of one."""
    return TooLarge(f"the image is larger than {max_bytes:,} bytes")
