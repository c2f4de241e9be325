"""What a DHVT is made of, as data. Importing this imports neither torch nor Pillow."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeVar, get_args

from dhvt.errors import ConfigError

PatchEmbedding = Literal["sope", "plain"]
Attention = Literal["himhsa", "mhsa"]
FeedForward = Literal["daff", "mlp"]
ResizeMode = Literal["crop", "squash", "pad"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

T = TypeVar("T")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _require_choice(name: str, value: object, kind: Any) -> None:
    choices = get_args(kind)
    _require(value in choices, f"{name} is {value!r}; choose one of {', '.join(choices)}")


def as_size(value: Any) -> tuple[int, int]:
    """``32`` or ``(height, width)`` as ``(height, width)`` in pixels."""
    pair = (value, value) if isinstance(value, int) else tuple(value)
    _require(
        len(pair) == 2 and all(isinstance(side, int) and side > 0 for side in pair),
        f"size is {value!r}; give a positive integer or two of them (height, width)",
    )
    return pair


def from_dict(cls: type[T], values: dict[str, Any]) -> T:
    """Builds a configuration dataclass; an unknown key raises :class:`ConfigError` naming the known ones."""
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]  # T is a dataclass
    unknown = sorted(set(values) - set(known))
    _require(not unknown, f"{cls.__name__} has no field {', '.join(unknown)}; it has {', '.join(known)}")
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"{cls.__name__}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class DHVTConfig:
    """One model's architecture (paper section 3). Field names are timm's.

    Args:
        img_size: ``(height, width)`` in pixels, each a multiple of ``patch_size``; an int means square.
        patch_size: 2, 4, 8 or 16 with ``patch_embed="sope"``.
        embed_dim: channels of a token, D; a multiple of ``num_heads``.
        drop_path_rate: of the last block; grows linearly from 0 at the first.
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "img_size", as_size(self.img_size))
        for name in ("patch_size", "embed_dim", "num_heads", "num_classes", "depth", "in_chans"):
            value = getattr(self, name)
            _require(isinstance(value, int) and value > 0, f"{name} is {value!r}; it must be a positive integer")
        _require(0 <= self.drop_path_rate < 1, f"drop_path_rate is {self.drop_path_rate}; it must be in [0, 1)")
        _require(self.mlp_ratio > 0, f"mlp_ratio is {self.mlp_ratio}; it must be positive")
        _require_choice("patch_embed", self.patch_embed, PatchEmbedding)
        _require_choice("attention", self.attention, Attention)
        _require_choice("feed_forward", self.feed_forward, FeedForward)
        _require(
            self.embed_dim % self.num_heads == 0,
            f"embed_dim {self.embed_dim} does not divide into {self.num_heads} heads",
        )
        _require(
            all(side % self.patch_size == 0 for side in self.img_size),
            f"image {self.img_size[0]}x{self.img_size[1]} does not divide into patches of {self.patch_size}",
        )
        if self.patch_embed == "sope":
            _require(self.patch_size in (2, 4, 8, 16), f"SOPE has patch sizes 2, 4, 8 and 16, not {self.patch_size}")
            halvings = self.patch_size.bit_length() - 2
            _require(
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


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How an encoded picture becomes the network's input, in training's validation, evaluation and serving alike.

    Args:
        size: ``(height, width)`` in pixels of the network's input.
        resize_mode: ``crop`` scales the shorter side and cuts the centre out, ``squash`` scales both sides
            independently, ``pad`` scales the longer side and fills with the mean colour.
        crop_pct: with ``crop``, the part of the scaled shorter side that is kept, in (0, 1];
            224 of 256 is 0.875. A picture that already has ``size`` is left as it is when this is 1.
        interpolation: Pillow's name of the resampling filter.
        mean, std: per channel, of RGB scaled to 0..1; they are applied inside the exported graph.
    """

    size: tuple[int, int]
    resize_mode: ResizeMode = "crop"
    crop_pct: float = 1.0
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", as_size(self.size))
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        _require_choice("resize_mode", self.resize_mode, ResizeMode)
        _require_choice("interpolation", self.interpolation, Interpolation)
        _require(0 < self.crop_pct <= 1, f"crop_pct is {self.crop_pct}; it must be in (0, 1]")
        _require(len(self.mean) == 3 and len(self.std) == 3, "mean and std need one value for each of R, G and B")
        _require(all(value > 0 for value in self.std), f"std is {self.std}; each value must be positive")

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for a checkpoint or JSON."""
        return asdict(self)
