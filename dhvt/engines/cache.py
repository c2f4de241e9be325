"""Where engines keep what takes long to find out or to build."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dhvt.hardware.gpus import read_driver

CUDA_LIBRARIES = tuple(
    f"nvidia-{name}{suffix}" for name in ("cudnn", "cublas", "cuda-runtime", "cufft") for suffix in ("-cu12", "-cu13", "")
)
"""What pip calls the libraries that ONNX Runtime's providers load."""


def cache_folder(name: str) -> Path:
    """``$XDG_CACHE_HOME/dhvt-serve/NAME``; it may not exist, and this user may be unable to make or to read it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache") / "dhvt-serve" / name


def _home() -> Path:
    """The user's; a folder of the number's own where the system does not know the user, as in some containers."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"user-{os.getuid()}"


def versions(packages: Iterable[str]) -> list[str]:
    """Of the packages as pip names them; empty strings for those that are not installed."""
    return [_version(package) for package in packages]


def gpu_facts() -> list[object]:
    """What a result on a GPU depends on beside the software: the driver, the GPUs, and which of them are visible."""
    return [repr(read_driver()), os.environ.get("CUDA_VISIBLE_DEVICES")]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
