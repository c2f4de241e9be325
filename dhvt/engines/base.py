"""The interface of every engine, and the options that each is built with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Engine(Protocol):
    """A compiled model. Its caller runs at most ``concurrency`` calls of ``predict`` at once."""

    @property
    def name(self) -> str:
        """The runtime: ``openvino``, ``onnxruntime`` …"""
        ...

    @property
    def precision(self) -> str:
        """The precision of its arithmetic: ``fp32``, ``bf16``, ``int8`` …"""
        ...

    @property
    def concurrency(self) -> int:
        """The number of calls of ``predict`` that may run at once, and are then faster than one after the other."""
        ...

    @property
    def preferred_batch_size(self) -> int | None:
        """The batch size beyond which an image costs no less; None where a larger batch is always cheaper.

        While calls wait for the processor anyway, smaller batches are ready sooner.
        """
        ...

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Images ``(B, H, W, 3)`` uint8 RGB, any B ≥ 1, to logits ``(B, classes)`` float32, which the caller may keep."""
        ...


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How an engine runs.

    Args:
        threads: processor threads that it may use.
        max_batch_size: the largest batch that it will be called with.
        device: index of the GPU among those that ``CUDA_VISIBLE_DEVICES`` leaves; engines on the processor ignore it.
    """

    threads: int
    max_batch_size: int
    device: int = 0
