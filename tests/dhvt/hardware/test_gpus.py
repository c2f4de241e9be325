import pytest

from dhvt.engines.settings import EngineSettings
from dhvt.hardware.gpus import Driver, Gpu, count_visible_gpus

L4 = Gpu(name="NVIDIA L4", compute_capability="8.9")
FOUR = Driver(version="580.65.06", cuda_version="13.0", gpus=(L4,) * 4)


@pytest.mark.parametrize(
    ("environ", "count"),
    [
        ({}, 4),
        ({"CUDA_VISIBLE_DEVICES": ""}, 0),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, 0),
        ({"CUDA_VISIBLE_DEVICES": "2"}, 1),
        ({"CUDA_VISIBLE_DEVICES": "0, 3"}, 2),
        ({"CUDA_VISIBLE_DEVICES": "0,4,1"}, 1),
        ({"CUDA_VISIBLE_DEVICES": "GPU-8932f937,GPU-12345678"}, 2),
    ],
)
def test_visible_gpus(environ, count):
    assert count_visible_gpus(FOUR, environ) == count


def test_without_a_driver_none_is_visible():
    assert count_visible_gpus(None, {}) == 0
    assert count_visible_gpus(None, {"CUDA_VISIBLE_DEVICES": "0,1"}) == 0


@pytest.mark.parametrize(
    ("driver", "visible", "devices"),
    [(FOUR, None, [0, 0, 1, 2, 3, 0, 1]), (FOUR, "1,3", [0, 0, 1, 0, 1, 0, 1]), (None, None, [0] * 7)],
)
def test_workers_are_spread_over_the_visible_gpus(driver, visible, devices, monkeypatch):
    monkeypatch.setattr("dhvt.engines.settings.read_driver", lambda: driver)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [EngineSettings().device_of(worker) for worker in (None, *range(1, 7))] == devices
