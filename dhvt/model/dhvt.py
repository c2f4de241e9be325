"""The Dynamic Hybrid Vision Transformer (Lu et al., NeurIPS 2022, arXiv 2210.05958), registered with timm."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from timm.layers import global_pool_nlc, register_notrace_function, resample_abs_pos_embed, trunc_normal_
from timm.models import register_model
from torch import Tensor, nn

from dhvt.configuration import as_size, from_dict, require, require_choice
from dhvt.errors import ConfigError
from dhvt.model import timm_registration
from dhvt.model.block import EncoderBlock, run_checkpointed
from dhvt.model.config import VARIANTS, DHVTConfig
from dhvt.model.features import FeatureFormat, Indices, arrange_features, resolve_indices, split_tokens
from dhvt.model.layers import HIMHSA, SOPE, Grid, PatchEmbed
from dhvt.model.small_stem import small_stem


class DHVT(nn.Module):
    """A classifier: normalised images ``(B, 3, H, W)`` float to logits ``(B, num_classes)`` float.

    Any H and W that the patch size divides will do, unless ``config.pos_embed`` ties the model to ``config.img_size``.

    Initialisation: linear weights, class token, head-token and position embeddings truncated normal with
    std 0.02; linear biases 0; norms 1 and 0; convolutions PyTorch's default.
    """

    def __init__(self, config: DHVTConfig) -> None:
        super().__init__()
        self.config = config
        self.num_classes, self.global_pool = config.num_classes, config.global_pool
        self.num_prefix_tokens = 1  # the class token
        self.grad_checkpointing = False
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
        self.feature_info = [
            {"module": f"blocks.{i}", "num_chs": config.embed_dim, "reduction": config.patch_size} for i in range(config.depth)
        ]
        self.norm: nn.Module = nn.LayerNorm(config.embed_dim, eps=1e-6)
        self.head_drop = nn.Dropout(config.drop_rate)
        self.head = self._make_head()
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
        """Names of the parameters that an optimizer must not decay although they are matrices."""
        return {name for name, _ in self.named_parameters() if name.endswith(("cls_token", "pos_embed"))}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that sort the parameters by depth, for layer-wise learning rates: stem, each block, final norm and head."""
        return {"stem": r"^cls_token|^pos_embed|^patch_embed", "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))]}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trains with less memory: the backward pass computes each block's activations again."""
        self.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """The last layer: ``Linear``, or ``Identity`` for ``num_classes=0``."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the last layer by a freshly initialised one.

        Args:
            num_classes: outputs; 0 leaves the pooled features.
            global_pool: see :class:`DHVTConfig`; None keeps it.

        Raises:
            ConfigError: the number or the pooling is invalid.
        """
        changes = {"num_classes": num_classes} | ({} if global_pool is None else {"global_pool": global_pool})
        self.config = from_dict(DHVTConfig, self.config.to_dict() | changes)
        self.num_classes, self.global_pool = self.config.num_classes, self.config.global_pool
        self.head = self._make_head().to(self.cls_token).train(self.training)
        _init_linear(self.head)

    def _make_head(self) -> nn.Module:
        return nn.Linear(self.embed_dim, self.num_classes) if self.num_classes else nn.Identity()

    def set_input_size(self, img_size: int | Grid | None = None, patch_size: int | None = None) -> None:
        """Changes the image size of ``config``; a position embedding is resampled to the new grid.

        Args:
            img_size: pixels of a side, or ``(height, width)``.
            patch_size: None, or the patch size that the model has; it is part of the architecture.

        Raises:
            ConfigError: another patch size, or an image size that it does not divide.
        """
        require(
            patch_size in (None, self.config.patch_size),
            f"the patch size is {self.config.patch_size} and cannot become {patch_size}; create another model",
        )
        if img_size is None:
            return
        old = self.config
        self.config = replace(old, img_size=as_size(img_size))
        if old.pos_embed and old.grid_size != self.config.grid_size:
            new = resample_abs_pos_embed(self.pos_embed.data, list(self.config.grid_size), list(old.grid_size))
            self.pos_embed = nn.Parameter(new, requires_grad=self.pos_embed.requires_grad)

    def _embed(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Tokens ``(B, N, D)`` and their grid."""
        grid = patch_grid(x, self.config.patch_size, self.config.img_size if self.config.pos_embed else None)
        x = self.patch_embed(x)  # (B, D, gh, gw)
        x = x.flatten(2).transpose(1, 2)  # (B, N - 1, D)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)  # (B, N, D)
        if self.config.pos_embed:
            x = x + self.pos_embed
        return x, grid

    def _run_block(self, block: nn.Module, x: Tensor, grid: Grid) -> Tensor:
        assert isinstance(block, EncoderBlock)
        x = run_checkpointed(block, x, grid) if self.grad_checkpointing else block(x, grid)
        return x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: Indices = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: FeatureFormat = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
    ) -> Any:
        """Outputs of chosen blocks, for detection and segmentation heads.

        Args:
            x: ``(B, C, H, W)``.
            indices: the last n blocks for an int, all for None, or their numbers.
            return_prefix_tokens: give the class tokens ``(B, 1, D)`` too.
            norm: apply the final LayerNorm to each.
            stop_early: do not run the blocks after the last one chosen.
            output_fmt: ``NCHW`` for maps ``(B, D, gh, gw)``, ``NLC`` for patch tokens ``(B, N - 1, D)``.
            intermediates_only: leave out the final features ``(B, N, D)``.
            output_dict: give a dictionary.

        Returns:
            ``(features, intermediates)``, or the intermediates alone, each a map or with ``return_prefix_tokens`` a pair of
            map and class token; or a dictionary of ``image_features``, ``image_intermediates`` and
            ``image_intermediates_prefix``.

        Raises:
            ConfigError: a block's number is out of range, or the format is unknown.
        """
        require_choice("output_fmt", output_fmt, FeatureFormat)
        chosen = resolve_indices(len(self.blocks), indices)
        x, grid = self._embed(x)  # (B, N, D)
        intermediates: list[tuple[Tensor, Tensor]] = []
        for i, block in enumerate(self.blocks[: max(chosen) + 1] if stop_early else self.blocks):
            x = self._run_block(block, x, grid)  # (B, N, D)
            if i in chosen:
                intermediates.append(split_tokens(self.norm(x) if norm else x, grid, output_fmt))
        features = None if intermediates_only else self.norm(x)  # (B, N, D)
        return arrange_features(features, intermediates, return_prefix_tokens, output_dict)

    def prune_intermediate_layers(self, indices: Indices = 1, prune_norm: bool = False, prune_head: bool = True) -> list[int]:
        """Removes the blocks after the last one chosen, and the final norm and the classifier if asked.

        Returns:
            The chosen blocks' numbers.
        """
        chosen = resolve_indices(len(self.blocks), indices)
        self.blocks = self.blocks[: max(chosen) + 1]
        self.config = replace(self.config, depth=len(self.blocks))
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return chosen

    def forward_features(self, x: Tensor) -> Tensor:
        """``(B, C, H, W) → (B, N, D)``, the class token first.

        Raises:
            ConfigError: H or W is no multiple of the patch size, or not the one the position embedding is for.
        """
        x, grid = self._embed(x)  # (B, N, D)
        for block in self.blocks:
            x = self._run_block(block, x, grid)  # (B, N, D)
        x = self.norm(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """``(B, N, D) → (B, num_classes)``, or the pooled features ``(B, D)`` with ``pre_logits``."""
        x = global_pool_nlc(x, self.global_pool, num_prefix_tokens=self.num_prefix_tokens)  # (B, D)
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W) → (B, num_classes)``.

        In evaluation mode a classifier on the class token needs no other token of the last block. Without a classifier the
        block computes them all, for feature extractors that tap it.
        """
        if self.training or not self.num_classes or self.global_pool != "token":
            return self.forward_head(self.forward_features(x))
        x, grid = self._embed(x)  # (B, N, D)
        *blocks, last = self.blocks
        for block in blocks:
            x = self._run_block(block, x, grid)  # (B, N, D)
        x = last(x, grid, class_token_only=True)  # (B, 1, D)
        return self.forward_head(self.norm(x))


def patch_grid(x: Tensor, patch_size: int, img_size: Grid | None) -> Grid:
    """Patches per column and per row of images ``(B, C, H, W)``. Tracers treat it as one step.

    Args:
        img_size: the only ``(H, W)`` that is allowed, or None.

    Raises:
        ConfigError: the images do not fit.
    """
    height, width = x.shape[-2:]
    if height % patch_size or width % patch_size:
        raise ConfigError(f"image {height}x{width} does not divide into patches of {patch_size}")
    if img_size is not None and (height, width) != img_size:
        raise ConfigError(f"image is {height}x{width}; the position embedding is for {img_size[0]}x{img_size[1]}")
    return height // patch_size, width // patch_size


register_notrace_function(patch_grid)


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def create_model(name: str, **overrides: Any) -> DHVT:
    """One of the eight variants, freshly initialised.

    >>> create_model("dhvt_tiny_cifar_patch4", num_classes=10)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])

    Args:
        name: a key of ``dhvt.model.config.VARIANTS``.
        overrides: fields of :class:`DHVTConfig` to change, such as ``num_classes=10``.

    Raises:
        ConfigError: the name or a field is unknown, or the values do not fit together.
    """
    if name not in VARIANTS:
        raise ConfigError(f"no variant {name!r}; there are {', '.join(VARIANTS)}")
    return DHVT(from_dict(DHVTConfig, VARIANTS[name].to_dict() | overrides))


default_cfgs = timm_registration.default_cfgs
"""The variants' descriptions, which timm looks up in this module."""

for _name in VARIANTS:
    timm_registration.register(_name, create_model)
register_model(small_stem)
