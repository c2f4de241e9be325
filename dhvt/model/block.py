"""The encoder block of a DHVT, and how it runs with gradient checkpointing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from dhvt.model.config import DHVTConfig
from dhvt.model.layers import DAFF, HIMHSA, MHSA, MLP, Grid


class EncoderBlock(nn.Module):
    """Attention, then feed-forward, each on a LayerNorm of its input and added to it: ``(B, N, D) → (B, N, D)``."""

    def __init__(self, config: DHVTConfig, drop_path: float) -> None:
        super().__init__()
        attention = HIMHSA if config.attention == "himhsa" else MHSA
        feed_forward = DAFF if config.feed_forward == "daff" else MLP
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=1e-6)
        self.attn = attention(config.embed_dim, config.num_heads, config.qkv_bias)
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=1e-6)
        self.mlp = feed_forward(config.embed_dim, int(config.embed_dim * config.mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, grid: Grid, class_token_only: bool = False) -> Tensor:
        """All tokens ``(B, N, D)``, or the class token ``(B, 1, D)`` alone.

        Args:
            x: ``(B, N, D)``, the class token first.
            grid: patches per column and per row.
            class_token_only: leave out the work for the patch tokens; the result is the same in evaluation mode only.
        """
        x = x + self.drop_path(self.attn(self.norm1(x)))  # (B, N, D)
        if class_token_only:
            return x[:, :1] + self.mlp.forward_class_token(self.norm2(x), grid)  # (B, 1, D)
        x = x + self.drop_path(self.mlp(self.norm2(x), grid))  # (B, N, D)
        return x


def run_checkpointed(block: EncoderBlock, x: Tensor, grid: Grid) -> Tensor:
    """Runs a block without keeping its activations: the backward pass computes them again.

    BatchNorm's running statistics count each batch once, although the block runs twice.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _frozen_statistics(block)

    output: Tensor = checkpoint(block, x, grid, use_reentrant=False, context_fn=contexts)
    return output


@contextmanager
def _frozen_statistics(block: EncoderBlock) -> Iterator[None]:
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    counts = [None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone() for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None and count is not None:
                norm.num_batches_tracked.copy_(count)
