"""The layers of a DHVT, and the plain layers that the paper compares them with.

Shapes: B batch, N tokens, D embed_dim, h heads, d = D / h; a grid of (gh, gw) patches has gh * gw = N - 1,
the first token being the class token.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from timm.layers import register_notrace_function
from torch import Tensor, nn
from torch.nn import functional

Grid = tuple[int, int]


class Affine(nn.Module):
    """``alpha * x + beta`` for each channel of ``(B, dim, H, W)``; starts as the identity (paper section 3.2)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, dim, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, dim, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.alpha + self.beta


class SOPE(nn.Module):
    """Sequential overlapping patch embedding (paper section 3.2): ``(B, 3, H, W) → (B, D, H/P, W/P)``.

    log2(P) convolutions of 3×3 and stride 2, each with BatchNorm, GELU between them; with P = 2, after it too.
    """

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        steps = patch_size.bit_length() - 1
        widths = [in_chans] + [embed_dim // 2 ** (steps - 1 - step) for step in range(steps)]
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise(widths):
            layers += [self._conv(width_in, width_out), nn.GELU()]
        self.pre_affine = Affine(in_chans)
        self.proj = nn.Sequential(*(layers if steps == 1 else layers[:-1]))
        self.post_affine = Affine(embed_dim)

    @staticmethod
    def _conv(width_in: int, width_out: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(width_in, width_out, kernel_size=3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.post_affine(self.proj(self.pre_affine(x)))  # (B, D, H/P, W/P)
        return x


class PatchEmbed(nn.Module):
    """DeiT's patch embedding, one convolution without overlap: ``(B, 3, H, W) → (B, D, H/P, W/P)``."""

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        return x


def scaled_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """``softmax(scale * q k^T) v`` of ``(B, h, N, d)``. Tracers treat it as one step, since it depends on the device."""
    if q.is_cuda:
        return functional.scaled_dot_product_attention(q, k, v, scale=scale)
    # On a CPU the fused kernel's backward pass is slower than three plain steps on so few tokens, and runtimes
    # recognise these steps in the exported graph.
    return ((q * scale) @ k.transpose(-2, -1)).softmax(dim=-1) @ v


register_notrace_function(scaled_attention)


class MHSA(nn.Module):
    """Multi-head self-attention (DeiT's), ``(B, N, D) → (B, N, D)``."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def attend(self, x: Tensor) -> Tensor:
        """Ordinary attention over all tokens of ``(B, N, D)``."""
        B, N, D = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)  # (B, h, N, d)
        x = scaled_attention(q, k, v, self.scale)  # (B, h, N, d)
        x = self.proj(x.transpose(1, 2).reshape(B, N, D))  # (B, N, D)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x)


class HIMHSA(MHSA):
    """Head-interacted multi-head self-attention (paper section 3.4), ``(B, N, D) → (B, N, D)``.

    Each head summarises its d channels over all tokens into one head token; the h head tokens take part in
    the attention and are then averaged into the class token.
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True) -> None:
        super().__init__(dim, num_heads, qkv_bias)
        head_dim = dim // num_heads
        self.ht_proj = nn.Linear(head_dim, dim)
        self.ht_norm = nn.LayerNorm(head_dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, num_heads, dim))

    def head_tokens(self, x: Tensor) -> Tensor:
        """``(B, N, D) → (B, h, D)``."""
        B, _, D = x.shape
        summaries = x.mean(dim=1).reshape(B, self.num_heads, -1)  # (B, h, d)
        tokens = self.ht_proj(summaries).reshape(B, self.num_heads, self.num_heads, -1)  # (B, h, h, d)
        tokens = functional.gelu(self.ht_norm(tokens)).reshape(B, self.num_heads, D)  # (B, h, D)
        return tokens + self.pos_embed  # (B, h, D)

    def forward(self, x: Tensor) -> Tensor:
        N = x.shape[1]
        x = self.attend(torch.cat((x, self.head_tokens(x)), dim=1))  # (B, N + h, D)
        cls_token = x[:, :1] + x[:, N:].mean(dim=1, keepdim=True)  # (B, 1, D)
        return torch.cat((cls_token, x[:, 1:N]), dim=1)  # (B, N, D)


class MLP(nn.Module):
    """DeiT's feed-forward layer on every token, ``(B, N, D) → (B, N, D)``."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        x = self.fc2(functional.gelu(self.fc1(x)))  # (B, N, D)
        return x

    def forward_class_token(self, x: Tensor, grid: Grid) -> Tensor:
        """The class token that :meth:`forward` gives, ``(B, 1, D)``."""
        cls_token: Tensor = self(x[:, :1], grid)
        return cls_token


class DAFF(nn.Module):
    """Dynamic aggregation feed-forward (paper section 3.3), ``(B, N, D) → (B, N, D)``.

    Patch tokens pass through 1×1, depth-wise 3×3 and 1×1 convolutions on their grid. A squeeze-excitation of their
    average gives one weight for each channel of the class token.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, hidden_dim, kernel_size=1)
        self.bn1 = nn.BatchNorm2d(hidden_dim)
        self.conv2 = nn.Conv2d(hidden_dim, hidden_dim, kernel_size=3, padding=1, groups=hidden_dim)
        self.bn2 = nn.BatchNorm2d(hidden_dim)
        self.conv3 = nn.Conv2d(hidden_dim, dim, kernel_size=1)
        self.bn3 = nn.BatchNorm2d(dim)
        self.compress = nn.Linear(dim, dim // 4)
        self.excitation = nn.Linear(dim // 4, dim)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        cls_token, patches = x[:, :1], x[:, 1:]  # (B, 1, D), (B, N - 1, D)
        patches = self.bn3(self.conv3(self._convolve(patches, grid)))  # (B, D, gh, gw)
        patches = patches.permute(0, 2, 3, 1).flatten(1, 2)  # (B, N - 1, D)
        return torch.cat((cls_token * self._weigh(patches.mean(dim=1, keepdim=True)), patches), dim=1)

    def forward_class_token(self, x: Tensor, grid: Grid) -> Tensor:
        """The class token that :meth:`forward` gives in evaluation mode, ``(B, 1, D)``.

        It needs only the average of the patches, and averaging before the last linear layers gives the same as after.
        """
        average = self._convolve(x[:, 1:], grid).mean(dim=(2, 3), keepdim=True)  # (B, hidden, 1, 1)
        return x[:, :1] * self._weigh(self.bn3(self.conv3(average)).flatten(1).unsqueeze(1))

    def _convolve(self, patches: Tensor, grid: Grid) -> Tensor:
        """``(B, N - 1, D)`` to the hidden map ``(B, hidden, gh, gw)``."""
        # Dense tokens seen as a map are in channels-last order, where BatchNorm and the depth-wise convolution
        # are more than twice as fast on a CPU as on (B, D, gh, gw) in memory. In this order, unflatten and then
        # permute, OpenVINO sees that nothing need be moved.
        patches = patches.contiguous().unflatten(1, grid).permute(0, 3, 1, 2)  # (B, D, gh, gw)
        patches = functional.gelu(self.bn1(self.conv1(patches)))
        return patches + functional.gelu(self.bn2(self.conv2(patches)))

    def _weigh(self, average: Tensor) -> Tensor:
        """Squeeze-excitation of the patches' average, ``(B, 1, D) → (B, 1, D)``."""
        weight: Tensor = self.excitation(functional.gelu(self.compress(average)))
        return weight
