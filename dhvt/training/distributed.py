"""Where training runs, in what precision and in how many processes, by Accelerate.

``torchrun --nproc-per-node 4 -m dhvt.cli train …`` and ``accelerate launch`` start the processes; ``nodes.py`` is about several
machines.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, gather_object, patch_environment
from timm.layers import convert_sync_batchnorm
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dhvt.errors import ConfigError, DataError


def is_main_process() -> bool:
    """Whether this is the process that prints and writes, of those that a launcher started."""
    return os.environ.get("RANK", "0") == "0"


def any_process(accelerator: Accelerator, flag: bool) -> bool:
    """Whether the flag is set in some process; the same in each. All of them have to call it at the same point."""
    if accelerator.num_processes == 1:
        return flag
    flags: Tensor = accelerator.reduce(torch.tensor(float(flag), device=accelerator.device))
    return bool(flags.item())


def require_same_images(accelerator: Accelerator, own: Any) -> None:
    """Compares what tells the images of the processes apart; all of them have to call it at the same point.

    Raises:
        DataError: another process has something else.
    """
    if accelerator.num_processes > 1 and any(other != own for other in gather_object([own])):
        raise DataError("the processes found different images or classes; every machine needs the same --data and --val")


def processes_of_machine(accelerator: Accelerator) -> int:
    """How many of the processes are on this machine, as the launcher says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if accelerator.num_processes > 1 else 1


def open_accelerator(device: str = "auto", amp: str = "auto", wait_minutes: float = 10.0, **options: Any) -> Accelerator:
    """Joins the other processes, if a launcher started some.

    Args:
        device: ``auto`` (the first of CUDA, MPS, CPU that works here), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        amp: ``bf16``, ``fp16`` or ``off``; ``auto`` is what ``accelerate launch`` was told, else bf16 where the
            processor multiplies it natively.
        wait_minutes: how long a process waits for another before it stops with an error.
        options: more arguments of ``Accelerator``.

    Raises:
        ConfigError: the device or precision is not available here, or the processes would compute in different ones.
    """
    chosen = _pick_device(device)
    launched = "LOCAL_RANK" in os.environ
    if launched and ":" in device:
        raise ConfigError(f"--device {device} with a launcher of several processes; omit the number")
    if amp == "auto" and "ACCELERATE_MIXED_PRECISION" in os.environ:
        precision = None
    elif amp == "auto":
        precision = "bf16" if _multiplies_bf16(chosen) else "no"
    else:
        precision = "no" if amp == "off" else amp
    AcceleratorState._reset_state(reset_partial_state=True)  # of an earlier training in this process
    environment = {} if launched or chosen.type == "cpu" else {"accelerate_torch_device": chosen}
    try:
        with patch_environment(**environment):
            timeout = InitProcessGroupKwargs(timeout=timedelta(minutes=wait_minutes))
            accelerator = Accelerator(cpu=chosen.type == "cpu", mixed_precision=precision, kwargs_handlers=[timeout], **options)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"cannot train in {precision} on {chosen}: {error}") from error
    if accelerator.num_processes > 1 and len(found := set(gather_object([accelerator.mixed_precision]))) > 1:
        raise ConfigError(
            f"the processes' processors differ: --amp auto is {' and '.join(sorted(found))}; give --amp off, or bf16 to all"
        )
    return accelerator


def _pick_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        rank = os.environ.get("LOCAL_RANK") if name == "cuda" else None  # each process looks at its own GPU
        device = torch.device(name if rank is None else f"cuda:{rank}")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if not hasattr(torch.cpu, "get_capabilities"):  # as in PyTorch 2.9; a CPU with AMX has AVX-512 for bf16 too
        return bool(torch.cpu._is_avx512_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over the processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        total = grad_outputs[0].contiguous()
        distributed.all_reduce(total)
        return total


class CPUSyncBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation with the statistics of all processes' images, which PyTorch's own does on GPUs alone.

    Every process must give the same number of images. Under autocast it computes in float32 and returns the type of
    its input, as PyTorch's does.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        axes, shape = (0, 2, 3), (1, -1, 1, 1)
        processes = distributed.get_world_size()
        mean: Tensor = _SumOverProcesses.apply(x.mean(axes, dtype=torch.float32)) / processes
        centred = x - mean.view(shape)  # float32
        var: Tensor = _SumOverProcesses.apply(centred.square().mean(axes)) / processes
        with torch.no_grad():
            count = processes * x.numel() // x.shape[1]
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(var * count / max(count - 1, 1), momentum)
        normalized: Tensor = centred * ((var + self.eps).rsqrt() * self.weight).view(shape) + self.bias.view(shape)
        return normalized.to(x.dtype)


def synchronize_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """Gives every BatchNorm the statistics of all processes' images; parameters and their names stay.

    Raises:
        ConfigError: the model has a kind of BatchNorm that cannot be synchronised on this device.
    """
    if device.type == "cuda":
        synchronized: nn.Module = convert_sync_batchnorm(model)
        return synchronized
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = CPUSyncBatchNorm2d
        elif isinstance(module, _BatchNorm) and not isinstance(module, CPUSyncBatchNorm2d):
            raise ConfigError(f"{type(module).__name__} cannot be synchronised between processes on {device.type}")
    return model
