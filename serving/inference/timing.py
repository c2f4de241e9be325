"""Where one image's time goes on its way through the scheduler."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Timing:
    """Seconds of one image; the scheduler fills them in.

    Attributes:
        decode_s: decoding and resizing.
        wait_s: waiting for a thread that decodes, and then for the engine.
        engine_s: the engine call, for the whole inference batch.
    """

    decode_s: float = 0.0
    wait_s: float = 0.0
    engine_s: float = 0.0

    def to_header(self) -> str:
        """Returns the value of a ``Server-Timing`` header (W3C), in milliseconds."""
        return f"decode;dur={self.decode_s * 1e3:.2f}, wait;dur={self.wait_s * 1e3:.2f}, engine;dur={self.engine_s * 1e3:.2f}"
