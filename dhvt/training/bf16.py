"""Whether a processor multiplies bfloat16 natively, so that it is faster than float32."""

from __future__ import annotations

from functools import cache

import torch


@cache
def multiplies_bf16(device: torch.device) -> bool:
    """Of a CPU, whether it has instructions for it; of a GPU, whether it needs no emulation."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if not hasattr(torch.cpu, "get_capabilities"):  # as in PyTorch 2.9; a CPU with AMX has AVX-512 for bf16 too
        return bool(torch.cpu._is_avx512_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
