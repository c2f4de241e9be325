"""The NVIDIA GPUs of this machine, as its driver reports them without starting CUDA."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

RTX_DEFAULT_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0", "12.1")
"""Compute capabilities of the GPUs that TensorRT for RTX builds for unless told which: Ampere, Ada and Blackwell."""

RTX_CAPABILITIES = ("7.5", *RTX_DEFAULT_CAPABILITIES)
"""All that TensorRT for RTX supports. 9.0 (H100, H200), 10.0 (B200) and 11.0 are not among them."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One device.

    Args:
        name: ``NVIDIA L4`` …
        compute_capability: ``8.9`` …
    """

    name: str
    compute_capability: str


@dataclass(frozen=True, kw_only=True)
class Driver:
    """NVIDIA's driver.

    Args:
        version: ``580.65.06`` …
        cuda_version: the newest CUDA that it runs, ``13.0`` …
        gpus: all of them, also those that ``CUDA_VISIBLE_DEVICES`` hides.
    """

    version: str
    cuda_version: str
    gpus: tuple[Gpu, ...]


def read_driver() -> Driver | None:
    """The driver as NVML reports it; None if there is no driver, or ``nvidia-ml-py`` is not installed."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()  # 13000 is 13.0
        gpus = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
            gpus.append(Gpu(name=pynvml.nvmlDeviceGetName(handle), compute_capability=f"{major}.{minor}"))
        version = pynvml.nvmlSystemGetDriverVersion()
        return Driver(version=version, cuda_version=f"{cuda // 1000}.{cuda % 1000 // 10}", gpus=tuple(gpus))
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def count_visible_gpus(driver: Driver | None, environ: Mapping[str, str] = os.environ) -> int:
    """The number of GPUs that CUDA shows to this process.

    Args:
        driver: of this machine, from :func:`read_driver`.
        environ: its ``CUDA_VISIBLE_DEVICES`` lists indices or UUIDs, of which CUDA ignores those from the first invalid one
            on; without it all are visible.
    """
    installed = len(driver.gpus) if driver is not None else 0
    listed = environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return installed
    visible = 0
    for name in map(str.strip, listed.split(",")):
        valid = int(name) < installed if name.isdigit() else name.startswith(("GPU-", "MIG-"))
        if not valid:
            break
        visible += 1
    return visible if installed else 0
