"""The cache folder of engines, and the facts about software and hardware that its entries are named after."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dhvt.hardware.gpus import read_driver

CUDA_LIBRARIES = tuple(
    f"nvidia-{name}{suffix}" for name in ("cudnn", "cublas", "cuda-runtime", "cufft") for suffix in ("-cu12", "-cu13", "")
)
"""The names on PyPI of the libraries that ONNX Runtime's providers load."""


def cache_folder(name: str) -> Path | None:
    """``$XDG_CACHE_HOME/dhvt-serve/NAME``, in ``~/.cache`` by default. It may not exist, and may be unwritable.

    Where the system does not know the user's home, as in some containers, it is a folder of the temporary one. Anybody can
    make a folder of that name there first, so None is returned unless it belongs to this user and is closed to others.
    """
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "dhvt-serve" / name
    try:
        return Path.home() / ".cache" / "dhvt-serve" / name
    except RuntimeError:
        private = Path(tempfile.gettempdir()) / f"dhvt-serve-{os.getuid()}"
        return private / name if _is_private(private) else None


def make_folder(folder: Path) -> None:
    """Makes a folder of :func:`cache_folder`, and the one above it, for this user alone where they are missing.

    Raises:
        OSError: it cannot be made.
    """
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # else mkdir gives the mode to the last folder only
    folder.mkdir(mode=0o700, exist_ok=True)


def is_ours(folder: Path) -> bool:
    """Whether this user alone can write to the folder, which is made where it is missing, and to the one above it."""
    try:
        make_folder(folder)
        found = [folder.lstat(), folder.parent.lstat()]
    except OSError:
        return False
    return all(
        stat.S_ISDIR(entry.st_mode) and entry.st_uid == os.getuid() and not entry.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        for entry in found
    )


def _is_private(folder: Path) -> bool:
    """Whether the folder, which is made where it is missing, is this user's alone."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o077


def versions(packages: Iterable[str]) -> list[str]:
    """The installed versions of packages, by their names on PyPI; an empty string for one that is not installed."""
    return [_version(package) for package in packages]


@cache
def code_digest() -> str:
    """A hash of the code that an engine's outputs depend on: this folder, and that of decoding and preprocessing."""
    engines = Path(__file__).parent
    files = sorted([*engines.glob("*.py"), *(engines.parent / "data").glob("*.py")])
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files if path.is_file())).hexdigest()


def gpu_facts(device: int) -> list[object]:
    """The facts that a result on a GPU depends on beside the software: the driver, the GPUs, and which of them are visible.

    Args:
        device: index of the GPU among the visible ones; it matters where they are not all alike.
    """
    driver = read_driver()
    all_alike = driver is None or len(set(driver.gpus)) < 2
    return [repr(driver), os.environ.get("CUDA_VISIBLE_DEVICES"), 0 if all_alike else device]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
