"""The shape that every engine has."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Engine(Protocol):
    """A compiled model. :mod:`serving.inference.scheduler` sees to it that no more than ``concurrency`` calls run at once."""

    @property
    def name(self) -> str:
        """``openvino``, ``onnxruntime`` …"""
        ...

    @property
    def precision(self) -> str:
        """Of its arithmetic: ``fp32``, ``bf16``, ``int8`` …"""
        ...

    @property
    def concurrency(self) -> int:
        """Calls of ``predict`` that may run at once, and are then faster than one after the other."""
        ...

    @property
    def preferred_batch_size(self) -> int | None:
        """Images of a call beyond which it gains no more from a larger one; None where it always does.

        While calls queue for the processor anyway, smaller ones are answered sooner.
        """
        ...

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Images ``(B, H, W, 3)`` uint8 RGB, any B ≥ 1, to logits ``(B, classes)`` float32 of the caller's own."""
        ...
