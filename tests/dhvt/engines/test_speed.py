"""Speeds, measured beside a program that takes the processor."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dhvt.engines import speed
from dhvt.engines.speed import measure_speed

pytestmark = pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="Linux alone counts how long threads wait")


class TwentyMilliseconds:
    """An engine that computes for so long, which is longer than a scheduler lets one of two processes run."""

    preferred_batch_size = None

    def predict(self, images):
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            pass


@pytest.fixture
def shared_processor():
    """One processor for this thread and a program that never stops."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    other = subprocess.Popen([sys.executable, "-c", "print(1, flush=True)\nwhile True: pass"], stdout=subprocess.PIPE)
    other.stdout.read(1)
    yield
    other.kill()
    other.communicate()
    os.sched_setaffinity(0, allowed)


def test_a_speed_that_was_measured_on_a_busy_machine_says_so(shared_processor, monkeypatch):
    monkeypatch.setattr(speed, "PATIENCE_S", 0.5)
    measured = measure_speed(TwentyMilliseconds(), np.zeros((1, 4, 4, 3), np.uint8), max_batch_size=2, threads=1)
    assert measured.busy
    assert measured.latency_ms >= 20
    assert measured.to_dict()["busy"] is True
