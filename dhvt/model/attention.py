"""The attention of a DHVT's layers in PyTorch: what the exported graph with the attention is compared with."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dhvt.card import CLASS_ATTENTION, HEAD_TOKEN_ATTENTION, OUTPUT_NAME, ROLLOUT
from dhvt.model.layers import HIMHSA


def attention_outputs(model: nn.Module, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """Logits, attention and rollout by their names in the exported graph; see :mod:`export.explain_graph`.

    Args:
        model: an :class:`~dhvt.model.inference.InferenceModel` of a DHVT with head tokens, in evaluation mode on the CPU.
        images: ``(B, H, W, 3)`` uint8.
    """
    layers = [module for module in model.modules() if isinstance(module, HIMHSA)]
    attention: list[Tensor] = []

    def record(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(module, HIMHSA)
        attention.append(_mean_attention(module, args[0]))

    handles = [layer.register_forward_pre_hook(record) for layer in layers]
    try:
        with torch.inference_mode():
            logits = model(torch.from_numpy(images))
    finally:
        for handle in handles:
            handle.remove()
    head_tokens = layers[0].num_heads
    tokens = attention[0].shape[-1] - head_tokens
    stacked = torch.stack(attention, dim=1)  # (B, L, T, T)
    outputs = {
        OUTPUT_NAME: logits,
        CLASS_ATTENTION: stacked[:, :, 0, 1:tokens],
        HEAD_TOKEN_ATTENTION: stacked[:, :, tokens:, 1:tokens],
        ROLLOUT: torch.stack([_roll_out(attention[: layer + 1], head_tokens) for layer in range(len(layers))], dim=1),
    }
    return {name: value.numpy() for name, value in outputs.items()}


def _mean_attention(layer: HIMHSA, x: Tensor) -> Tensor:
    """``(B, T, T)``, the mean over the attention heads, of all tokens that take part."""
    x = torch.cat((x, layer.head_tokens(x)), dim=1)
    B, T, _ = x.shape
    q, k, _ = layer.qkv(x).reshape(B, T, 3, layer.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)  # (B, h, T, d)
    attention: Tensor = (layer.scale * q @ k.transpose(-2, -1)).softmax(dim=-1).mean(dim=1)
    return attention


def _roll_out(attention: list[Tensor], head_tokens: int) -> Tensor:
    """The class token's rollout ``(B, P)`` through layers of attention ``(B, T, T)``, by whole matrices."""
    T = attention[0].shape[-1]
    N = T - head_tokens
    take_part = torch.cat((torch.eye(N), torch.full((head_tokens, N), 1 / N)))  # (T, N)
    gather = torch.eye(T)[:N].clone()  # (N, T)
    gather[0, N:] = 1 / head_tokens
    total = torch.eye(N)
    for layer in attention:
        mixing = torch.eye(N) + gather @ layer @ take_part  # (B, N, N)
        total = mixing / mixing.sum(dim=-1, keepdim=True) @ total
    return total[:, 0, 1:]
