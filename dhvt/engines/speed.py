"""An engine's speed on this machine: images per second in large batches, and the time of a single image."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from dhvt.engines.base import Engine

MEASURED_S = 0.5
"""Seconds of each of the two measurements."""

LEAST_CALLS = 5


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Measured in the process of a probe, after the self-test.

    Args:
        images_per_s: at the largest batch that the engine is called with.
        latency_ms: of one image.
    """

    images_per_s: float
    latency_ms: float

    def to_dict(self) -> dict[str, float]:
        """Plain values, rounded to what a measurement is worth."""
        return {name: float(f"{value:.3g}") for name, value in asdict(self).items()}


def measure_speed(engine: Engine, images: NDArray[np.uint8], max_batch_size: int) -> Speed:
    """Measures an engine that has been warmed up; takes a second, or five calls where that is more.

    Each figure is that of the fastest call: what else the machine does only makes calls slower.

    Args:
        images: any, preprocessed, ``(N, H, W, 3)`` uint8.
        max_batch_size: that the engine will be called with; one that prefers less is called with less.
    """
    largest = min(max_batch_size, engine.preferred_batch_size or max_batch_size)
    batch = np.resize(images, (largest, *images.shape[1:]))
    return Speed(
        images_per_s=largest / min(_call_times(engine, batch)),
        latency_ms=1000 * min(_call_times(engine, batch[:1])),
    )


def _call_times(engine: Engine, batch: NDArray[np.uint8]) -> Iterator[float]:
    """The seconds that each call takes, until enough were made."""
    begin, calls = time.perf_counter(), 0
    while calls < LEAST_CALLS or time.perf_counter() - begin < MEASURED_S:
        start = time.perf_counter()
        engine.predict(batch)
        yield time.perf_counter() - start
        calls += 1
