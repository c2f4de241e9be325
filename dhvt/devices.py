"""Where training runs, and in what precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from dhvt.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """``auto`` is the first of CUDA, MPS, CPU that works here.

    Raises:
        ConfigError: the device asked for is not here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def autocast(device: torch.device, amp: str) -> AbstractContextManager[Any]:
    """bfloat16 autocast, or nothing where the processor would only emulate it."""
    if amp not in ("auto", "bf16", "off"):
        raise ConfigError(f"amp is {amp!r}; choose one of auto, bf16, off")
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        native = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    if amp == "bf16" or (amp == "auto" and native):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()
