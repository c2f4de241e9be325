"""The number of processes that decode, for ``--num-workers auto``."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import torch

from dhvt.data.batches import read_pixels
from dhvt.data.preprocess import Preprocess
from dhvt.data.sources import ImageSource
from dhvt.hardware.cpus import available_cpus

WORTH_IT_S = 10.0
"""Seconds of decoding, over all images, below which starting processes costs more than they save."""

CORES_PER_WORKER = 8
"""On a CPU: training itself keeps the others busy."""

MOST = 16
SAMPLE = 8
_BATCHES_SENT = 3  # of each process, that lie in shared memory at once
_SHARED_MEMORY = Path("/dev/shm")


def choose_workers(source: ImageSource, preprocess: Preprocess, device: torch.device, batch_size: int) -> int:
    """Processes that decode a source's images: by their number and the time that one takes, the cores and the device.

    Args:
        batch_size: images of this process's batch.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores = available_cpus() // processes
    workers = cores // CORES_PER_WORKER if device.type == "cpu" else min(cores - 1, MOST)
    height, width = preprocess.size
    if _SHARED_MEMORY.is_dir():  # containers often have 64 MiB of it
        room = shutil.disk_usage(_SHARED_MEMORY).free // 2 // processes
        workers = min(workers, room // (_BATCHES_SENT * batch_size * height * width * 3))
    if workers < 1 or len(source) * _seconds_per_image(source, preprocess) < WORTH_IT_S:
        return 0
    return workers


def _seconds_per_image(source: ImageSource, preprocess: Preprocess) -> float:
    """The median time to read and decode one of a few images."""
    times = []
    for index in np.linspace(0, len(source) - 1, min(SAMPLE, len(source)), dtype=int).tolist():
        started = time.perf_counter()
        read_pixels(source, preprocess, index)
        times.append(time.perf_counter() - started)
    return float(np.median(times))
