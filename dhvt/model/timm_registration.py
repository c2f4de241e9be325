"""Registers the DHVT variants with timm, so that ``timm.create_model`` and ``timm.list_models`` know them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model, resolve_pretrained_cfg
from torch import nn

from dhvt.data.preprocess import IMAGENET_MEAN, IMAGENET_STD
from dhvt.errors import ConfigError
from dhvt.model.config import VARIANTS, DHVTConfig


def _default_cfg(config: DHVTConfig) -> dict[str, Any]:
    """timm's description of a variant: its input, preprocessing, and the names of its first and last layer."""
    return {
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


default_cfgs = generate_default_cfgs({name: _default_cfg(config) for name, config in VARIANTS.items()})


def register(name: str, create: Callable[..., nn.Module]) -> None:
    """Adds one variant to timm's registry.

    Args:
        name: a key of ``VARIANTS``.
        create: called with the name and fields of :class:`DHVTConfig`; timm lists the variant under its module, which needs
            :data:`default_cfgs` among its names.
    """

    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        source = resolve_pretrained_cfg(name, kwargs.get("pretrained_cfg"), kwargs.get("pretrained_cfg_overlay"))
        if pretrained and not (source.has_weights or source.state_dict):
            raise ConfigError(f"{name} has no published weights; pass checkpoint_path= or load a checkpoint")
        if kwargs.get("features_only"):
            kwargs["num_classes"] = 0
        if kwargs.get("patch_embed") == "plain":
            kwargs["pretrained_cfg_overlay"] = {"first_conv": "patch_embed.proj"} | (kwargs.get("pretrained_cfg_overlay") or {})
        feature_cfg = {"out_indices": 3, "feature_cls": "getter"} | kwargs.pop("feature_cfg", {})
        model: nn.Module = build_model_with_cfg(partial(create, name), name, pretrained, feature_cfg=feature_cfg, **kwargs)
        return model

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__doc__ = f"DHVT ``{name}``; keyword arguments are timm's, and fields of DHVTConfig."
    entrypoint.__module__ = create.__module__
    setattr(sys.modules[create.__module__], name, entrypoint)
    registered: Callable[[Callable[..., nn.Module]], object] = register_model
    registered(entrypoint)
