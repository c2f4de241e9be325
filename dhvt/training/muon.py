"""Muon: momentum, orthogonalised by Newton–Schulz iterations (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

timm and torch have it too, one matrix at a time. This one hands timm's iterations the matrices of equal shape as a stack, of
which a transformer has one per block, and computes in bfloat16 only where it is told to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from timm.optim.muon import zeropower_via_newtonschulz
from torch import Tensor

_COEFFICIENTS = (  # one (a, b, c) per iteration; Keller Jordan's modded-nanogpt, after @leloykun's search
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)


def orthogonalize(stack: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Replaces each matrix of ``(n, rows, columns)`` by roughly its nearest semi-orthogonal one, computed in ``dtype``."""
    result: Tensor = zeropower_via_newtonschulz(stack, len(_COEFFICIENTS), list(_COEFFICIENTS), dtype=dtype)
    return result.to(stack.dtype)


class Muon(torch.optim.Optimizer):
    """Muon for weights of two or more dimensions; those beyond the second are flattened into it.

    Updates are scaled to AdamW's usual size (root mean square 0.2 × lr, Liu et al. 2025, arXiv 2502.16982),
    so both optimizers take the same learning rate and weight decay. The iterations are computed in ``dtype``, which is not
    part of the state: of bfloat16's updates the cosine to float32's is above 0.99, and all processes need the same.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # no closure
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
            for param in group["params"]:
                if param.grad is not None:
                    by_shape[(param.shape[0], param[0].numel())].append(param)
            for shape, params in by_shape.items():
                self._step_stack(group, shape, params)

    def _step_stack(self, group: dict[str, Any], shape: tuple[int, int], params: list[Tensor]) -> None:
        momentum = group["momentum"]
        gradients = [param.grad for param in params if param.grad is not None]
        for param in params:
            if "momentum_buffer" not in self.state[param]:
                self.state[param]["momentum_buffer"] = torch.zeros_like(param)
        buffers = [self.state[param]["momentum_buffer"] for param in params]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        ahead = torch._foreach_lerp(gradients, buffers, momentum)  # Nesterov
        stack = orthogonalize(torch.stack([update.reshape(shape) for update in ahead]), self._dtype)
        scale = 0.2 * max(shape) ** 0.5
        updates = [update.reshape(param.shape) for param, update in zip(params, stack.unbind(), strict=True)]
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(params, updates, alpha=-group["lr"] * scale)
