"""The architecture of a DHVT as a dataclass, and the paper's eight variants. Imports neither torch nor Pillow."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from dhvt.configuration import as_size, require, require_choice

PatchEmbedding = Literal["sope", "plain"]
Attention = Literal["himhsa", "mhsa"]
FeedForward = Literal["daff", "mlp"]
GlobalPool = Literal["token", "avg", "max", "avgmax", ""]


@dataclass(frozen=True, kw_only=True)
class DHVTConfig:
    """One model's architecture (paper section 3). Field names are timm's.

    Args:
        img_size: ``(height, width)`` in pixels, each a multiple of ``patch_size``; an int means square.
        patch_size: 2, 4, 8 or 16 with ``patch_embed="sope"``.
        embed_dim: channels of a token, D; a multiple of ``num_heads``.
        num_classes: outputs; 0 for a model that gives pooled features.
        drop_path_rate: probability in [0, 1) of skipping the last block's branches; grows linearly from 0 at the first block.
        drop_rate: probability in [0, 1) of dropping a feature before the classifier.
        global_pool: what the classifier reads: the class token, or the patch tokens' ``avg``, ``max`` or ``avgmax``; with
            an empty string it reads every token.
        patch_embed, attention, feed_forward, pos_embed: the ablation's switches (paper Table 5):
            DeiT is ``plain, mhsa, mlp, True``; DHVT is ``sope, himhsa, daff, False``.

    Raises:
        ConfigError: the values do not fit together.
    """

    img_size: tuple[int, int]
    patch_size: int
    embed_dim: int
    num_heads: int
    num_classes: int
    depth: int = 12
    in_chans: int = 3
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    drop_path_rate: float = 0.1
    patch_embed: PatchEmbedding = "sope"
    attention: Attention = "himhsa"
    feed_forward: FeedForward = "daff"
    pos_embed: bool = False
    global_pool: GlobalPool = "token"
    drop_rate: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "img_size", as_size(self.img_size))
        for name in ("patch_size", "embed_dim", "num_heads", "depth", "in_chans"):
            value = getattr(self, name)
            require(isinstance(value, int) and value > 0, f"{name} is {value!r}; it must be a positive integer")
        require(
            isinstance(self.num_classes, int) and self.num_classes >= 0,
            f"num_classes is {self.num_classes!r}; it must be a positive integer, or 0 for features without a classifier",
        )
        for name in ("drop_path_rate", "drop_rate"):
            require(0 <= getattr(self, name) < 1, f"{name} is {getattr(self, name)}; it must be in [0, 1)")
        require(self.mlp_ratio > 0, f"mlp_ratio is {self.mlp_ratio}; it must be positive")
        require_choice("patch_embed", self.patch_embed, PatchEmbedding)
        require_choice("attention", self.attention, Attention)
        require_choice("feed_forward", self.feed_forward, FeedForward)
        require_choice("global_pool", self.global_pool, GlobalPool)
        require(
            self.embed_dim % self.num_heads == 0,
            f"embed_dim {self.embed_dim} does not divide into {self.num_heads} heads",
        )
        require(
            all(side % self.patch_size == 0 for side in self.img_size),
            f"image {self.img_size[0]}x{self.img_size[1]} does not divide into patches of {self.patch_size}",
        )
        if self.patch_embed == "sope":
            require(self.patch_size in (2, 4, 8, 16), f"SOPE has patch sizes 2, 4, 8 and 16, not {self.patch_size}")
            halvings = self.patch_size.bit_length() - 2
            require(
                self.embed_dim % 2**halvings == 0,
                f"embed_dim {self.embed_dim} cannot be halved {halvings} times for patch size {self.patch_size}",
            )

    @property
    def grid_size(self) -> tuple[int, int]:
        """Patches per column and per row, ``(H / P, W / P)``."""
        return self.img_size[0] // self.patch_size, self.img_size[1] // self.patch_size

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for a checkpoint or JSON."""
        return asdict(self)


def _variant(img_size: int, patch_size: int, embed_dim: int, num_heads: int, num_classes: int) -> DHVTConfig:
    return DHVTConfig(
        img_size=(img_size, img_size),
        patch_size=patch_size,
        embed_dim=embed_dim,
        num_heads=num_heads,
        num_classes=num_classes,
    )


VARIANTS: dict[str, DHVTConfig] = {
    "dhvt_tiny_cifar_patch4": _variant(32, 4, 192, 4, 100),
    "dhvt_small_cifar_patch4": _variant(32, 4, 384, 8, 100),
    "dhvt_tiny_cifar_patch2": _variant(32, 2, 192, 4, 100),
    "dhvt_small_cifar_patch2": _variant(32, 2, 384, 8, 100),
    "dhvt_tiny_domain_patch16": _variant(224, 16, 192, 4, 345),
    "dhvt_small_domain_patch16": _variant(224, 16, 384, 6, 345),
    "dhvt_tiny_imagenet_patch16": _variant(224, 16, 192, 3, 1000),
    "dhvt_small_imagenet_patch16": _variant(224, 16, 384, 6, 1000),
}
"""The authors' eight models. Training replaces ``num_classes`` by the data set's own."""
