"""The NVIDIA GPUs of this machine, as its driver tells without starting CUDA."""

from __future__ import annotations

from dataclasses import dataclass

RTX_DEFAULT_CAPABILITY = (8, 0)
"""TensorRT for RTX builds for GPUs from this compute capability on (Ampere), unless told which."""


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
        gpus: all of them, whatever ``CUDA_VISIBLE_DEVICES`` says.
    """

    version: str
    cuda_version: str
    gpus: tuple[Gpu, ...]


def read_driver() -> Driver | None:
    """What NVML knows; None where there is no driver, or no ``nvidia-ml-py`` to ask it with."""
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
