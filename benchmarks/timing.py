"""Images/s and latency of functions that take turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

Predict = Callable[[np.ndarray], Any]


def measure(contenders: dict[str, Predict], images: np.ndarray, rounds: int) -> dict[str, dict[str, float]]:
    """Images/s from the median, and milliseconds, of one batch.

    Each has a call before that which is timed: the threads of the one before spin for milliseconds after their last work.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, predict in contenders.items():
            predict(images)
            start = time.perf_counter()
            predict(images)
            times[name].append(time.perf_counter() - start)
    return {
        name: {
            "images_per_s": round(len(images) / float(np.median(values)), 1),
            "median_ms": round(1e3 * float(np.median(values)), 2),
            "p99_ms": round(1e3 * float(np.percentile(values, 99)), 2),
        }
        for name, values in times.items()
    }
