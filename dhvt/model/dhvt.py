"""The Dynamic Hybrid Vision Transformer (Lu et al., NeurIPS 2022, arXiv 2210.05958), registered with timm."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from timm.layers import DropPath, trunc_normal_
from timm.models import register_model
from torch import Tensor, nn

from dhvt.configuration import from_dict
from dhvt.data.preprocess import IMAGENET_MEAN, IMAGENET_STD
from dhvt.errors import ConfigError
from dhvt.model.config import VARIANTS, DHVTConfig
from dhvt.model.layers import DAFF, HIMHSA, MHSA, MLP, SOPE, Grid, PatchEmbed


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

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        x = x + self.drop_path(self.mlp(self.norm2(x), grid))
        return x

    def forward_class_token(self, x: Tensor, grid: Grid) -> Tensor:
        """The class token that :meth:`forward` gives in evaluation mode, ``(B, 1, D)``, without the other tokens' work."""
        x = x + self.attn(self.norm1(x))
        return x[:, :1] + self.mlp.forward_class_token(self.norm2(x), grid)


class DHVT(nn.Module):
    """A classifier: normalised images ``(B, 3, H, W)`` float to logits ``(B, num_classes)`` float.

    Any H and W that the patch size divides will do, unless ``config.pos_embed`` ties the model to ``config.img_size``.

    Initialisation: linear weights, class token, head-token and position embeddings truncated normal with
    std 0.02; linear biases 0; norms 1 and 0; convolutions PyTorch's default.
    """

    def __init__(self, config: DHVTConfig) -> None:
        super().__init__()
        self.config = config
        self.num_classes = config.num_classes
        self.pretrained_cfg: dict[str, Any] = {}
        self.default_cfg: dict[str, Any] = {}
        self.num_features = self.head_hidden_size = self.embed_dim = config.embed_dim
        embed = SOPE if config.patch_embed == "sope" else PatchEmbed
        self.patch_embed = embed(config.patch_size, config.in_chans, config.embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.embed_dim))
        if config.pos_embed:
            self.pos_embed = nn.Parameter(torch.zeros(1, 1 + math.prod(config.grid_size), config.embed_dim))
        last = max(config.depth - 1, 1)
        self.blocks = nn.ModuleList(EncoderBlock(config, config.drop_path_rate * i / last) for i in range(config.depth))
        self.norm = nn.LayerNorm(config.embed_dim, eps=1e-6)
        self.head: nn.Module = nn.Linear(config.embed_dim, config.num_classes)
        self._init_weights()

    def _init_weights(self) -> None:
        for module in self.modules():
            _init_linear(module)
            if isinstance(module, HIMHSA):
                trunc_normal_(module.pos_embed, std=0.02)
        trunc_normal_(self.cls_token, std=0.02)
        if self.config.pos_embed:
            trunc_normal_(self.pos_embed, std=0.02)

    def no_weight_decay(self) -> set[str]:
        """Parameters that timm's optimizer factory must not decay although they are matrices."""
        return {name for name, _ in self.named_parameters() if name.endswith(("cls_token", "pos_embed"))}

    def get_classifier(self) -> nn.Module:
        """The last layer; timm's convention."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """Replaces the last layer by a fresh one for ``num_classes`` classes; 0 removes it."""
        self.num_classes = num_classes
        self.head = nn.Linear(self.embed_dim, num_classes) if num_classes else nn.Identity()
        if num_classes:
            self.config = replace(self.config, num_classes=num_classes)
            self.head.apply(_init_linear)

    def _embed(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Tokens ``(B, N, D)`` and their grid."""
        height, width = x.shape[-2:]
        patch = self.config.patch_size
        if height % patch or width % patch:
            raise ConfigError(f"image {height}x{width} does not divide into patches of {patch}")
        if self.config.pos_embed and (height, width) != self.config.img_size:
            raise ConfigError(f"image is {height}x{width}; the position embedding is for {self.config.img_size}")
        x = self.patch_embed(x)  # (B, D, gh, gw)
        grid = (height // patch, width // patch)
        x = x.flatten(2).transpose(1, 2)  # (B, gh * gw, D)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        if self.config.pos_embed:
            x = x + self.pos_embed
        return x, grid

    def forward_features(self, x: Tensor) -> Tensor:
        """``(B, 3, H, W) → (B, N, D)``, the class token first.

        Raises:
            ConfigError: H or W is no multiple of the patch size, or not the one the position embedding is for.
        """
        x, grid = self._embed(x)
        for block in self.blocks:
            x = block(x, grid)
        x = self.norm(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """``(B, N, D) → (B, num_classes)``, or the class token ``(B, D)`` with ``pre_logits``."""
        x = x[:, 0]
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.forward_head(self.forward_features(x))
        x, grid = self._embed(x)
        *blocks, last = self.blocks
        assert isinstance(last, EncoderBlock)
        for block in blocks:
            x = block(x, grid)
        return self.forward_head(self.norm(last.forward_class_token(x, grid)))


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def create_model(name: str, **overrides: Any) -> DHVT:
    """One of the eight variants, freshly initialised.

    Args:
        name: a key of ``dhvt.model.config.VARIANTS``.
        overrides: fields of :class:`DHVTConfig` to change, such as ``num_classes=10``.

    Raises:
        ConfigError: the name or a field is unknown, or the values do not fit together.
    """
    if name not in VARIANTS:
        raise ConfigError(f"no variant {name!r}; there are {', '.join(VARIANTS)}")
    return DHVT(from_dict(DHVTConfig, VARIANTS[name].to_dict() | overrides))


def _register(name: str) -> None:
    """Adds one variant to timm's registry, so that ``timm.create_model(name)`` builds it."""

    def entrypoint(
        pretrained: bool = False,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: Any = None,
        cache_dir: Any = None,
        **overrides: Any,
    ) -> DHVT:
        if pretrained:
            raise ConfigError(f"{name} has no published weights; pass checkpoint_path= or load a checkpoint")
        model = create_model(name, **overrides)
        model.pretrained_cfg = model.default_cfg = default_cfgs[name] | {"num_classes": model.num_classes}
        return model

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__doc__ = f"DHVT ``{name}``; keyword arguments are fields of DHVTConfig."
    globals()[name] = entrypoint
    config = VARIANTS[name]
    default_cfgs[name] = {
        "num_classes": config.num_classes,
        "input_size": (config.in_chans, *config.img_size),
        "pool_size": None,
        "crop_pct": 1.0 if config.img_size[0] <= 64 else 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "first_conv": "patch_embed.proj.0.0",
        "classifier": "head",
    }
    register: Callable[[Callable[..., DHVT]], object] = register_model
    register(entrypoint)


default_cfgs: dict[str, dict[str, Any]] = {}
for _name in VARIANTS:
    _register(_name)
