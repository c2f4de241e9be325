"""An engine's speed on this machine: images per second in large batches, and the time of a single image."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from dhvt.engines.base import Engine
from dhvt.hardware.cpus import waiting_s

MEASURED_S = 0.5
"""Seconds of each of the two measurements."""

LEAST_CALLS = 5

LONGEST_WAITING = 1 / 8
"""Share of a call for which each of the engine's threads may wait for a processor. On an idle machine it is up to 0.07; beside
another program that takes all processors, 0.4 and more."""

PATIENCE_S = 3.0
"""For how long a busy machine is tried."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Measured in the process of a probe, after the self-test.

    Args:
        images_per_s: at the largest batch that the engine is called with.
        latency_ms: of one image.
        busy: other programs took the processors, so that neither figure says what the engine can do.
    """

    images_per_s: float
    latency_ms: float
    busy: bool = False

    def to_dict(self) -> dict[str, float | bool]:
        """Plain values, rounded to what a measurement is worth."""
        return {name: value if name == "busy" else float(f"{value:.3g}") for name, value in asdict(self).items()}


def measure_speed(engine: Engine, images: NDArray[np.uint8], max_batch_size: int, threads: int) -> Speed:
    """Measures an engine that has been warmed up; takes a second, or five calls where that is more, and longer where busy.

    Each figure is that of the fastest call: what else the machine does only makes calls slower. Calls count that hardly had to
    wait for a processor, unless there are too few of those for :data:`PATIENCE_S`.

    Args:
        images: any, preprocessed, ``(N, H, W, 3)`` uint8.
        max_batch_size: that the engine will be called with; one that prefers less is called with less.
        threads: that the engine computes with.
    """
    largest = min(max_batch_size, engine.preferred_batch_size or max_batch_size)
    batch = np.resize(images, (largest, *images.shape[1:]))
    batch_s, batch_busy = _fastest_call(engine, batch, threads)
    image_s, image_busy = _fastest_call(engine, batch[:1], threads)
    return Speed(images_per_s=largest / batch_s, latency_ms=1000 * image_s, busy=batch_busy or image_busy)


def _fastest_call(engine: Engine, batch: NDArray[np.uint8], threads: int) -> tuple[float, bool]:
    """The seconds of the fastest call, and whether the machine was too busy for it to count."""
    begin = time.perf_counter()
    undisturbed: list[float] = []
    disturbed: list[float] = []
    while True:
        waited, start = waiting_s(), time.perf_counter()
        engine.predict(batch)
        call_s = time.perf_counter() - start
        share = (waiting_s() - waited) / (call_s * threads)
        (undisturbed if share <= LONGEST_WAITING else disturbed).append(call_s)
        measured_s = time.perf_counter() - begin
        if measured_s >= MEASURED_S and len(undisturbed) >= LEAST_CALLS:
            return min(undisturbed), False
        if measured_s >= PATIENCE_S and len(disturbed) >= LEAST_CALLS:
            return min(undisturbed + disturbed), True
