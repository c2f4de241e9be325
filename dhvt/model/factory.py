"""Every model that can be trained: the DHVT variants, and any classifier that timm knows."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import timm
from torch import nn

from dhvt.configuration import as_size, from_dict
from dhvt.errors import ConfigError
from dhvt.model.config import VARIANTS, DHVTConfig
from dhvt.model.dhvt import DHVT

SMALL_IMAGE = 64
"""Images with shorter sides up to this get a stem that does not shrink them eightfold at once."""

SMALL_PATCH = 4
DEFAULT_IMG_SIZE = 32


def configure(
    name: str, *, num_classes: int, img_size: Any = None, drop_path_rate: float = 0.0, options: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What :func:`build` needs, as plain values for a checkpoint.

    Args:
        name: a DHVT variant, or a model of timm such as ``resnet50``.
        img_size: pixels of a side, or ``(height, width)``; by default the variant's, and 32 for a model of timm.
        options: more fields of :class:`DHVTConfig`, or arguments of timm's model.

    Raises:
        ConfigError: no such model, or the values do not fit it.
    """
    if name in VARIANTS:
        changes: dict[str, Any] = {"num_classes": num_classes, "drop_path_rate": drop_path_rate}
        if img_size is not None:
            changes["img_size"] = as_size(img_size)
        return from_dict(DHVTConfig, VARIANTS[name].to_dict() | changes | (options or {})).to_dict()
    if not timm.is_model(name):
        close = get_close_matches(name, [*VARIANTS, *timm.list_models()], n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() names timm's"
        raise ConfigError(f"no model {name!r} among the DHVT variants ({', '.join(VARIANTS)}) and timm's; {hint}")
    return {
        "library": "timm",
        "num_classes": num_classes,
        "img_size": as_size(img_size or DEFAULT_IMG_SIZE),
        "drop_path_rate": drop_path_rate,
        "options": options or {},
    }


def build(name: str, config: dict[str, Any]) -> nn.Module:
    """A freshly initialised model, normalised images ``(B, 3, H, W)`` to logits ``(B, num_classes)``.

    Args:
        name: the model's.
        config: what :func:`configure` gave; a ``drop_path_rate`` that timm's model does not know becomes 0 in it.

    Raises:
        ConfigError: the configuration does not fit the model.
    """
    if config.get("library") == "timm":
        return _build_timm(name, config)
    return DHVT(from_dict(DHVTConfig, config))


def size_multiple(config: dict[str, Any]) -> int:
    """What the sides of a training image must be multiples of; 0 if they must be the configured ones."""
    if config.get("library") != "timm":
        return 0 if config["pos_embed"] else int(config["patch_size"])
    return 0 if config.get("fixed_input_size") else SMALL_PATCH


def _build_timm(name: str, config: dict[str, Any]) -> nn.Module:
    img_size = as_size(config["img_size"])
    small = min(img_size) <= SMALL_IMAGE
    options: dict[str, Any] = {"num_classes": config["num_classes"]}
    default_cfg = timm.get_pretrained_cfg(name)
    if default_cfg is not None and default_cfg.fixed_input_size:
        config["fixed_input_size"] = True
        options["img_size"] = img_size
        if small:
            options["patch_size"] = SMALL_PATCH
    if config["drop_path_rate"]:
        options["drop_path_rate"] = config["drop_path_rate"]
    asked = config.get("options", {})
    try:
        model: nn.Module = timm.create_model(name, **options | asked)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        if isinstance(error, TypeError) and "drop_path_rate" in str(error) and config["drop_path_rate"]:
            config["drop_path_rate"] = 0.0  # as most convolutional networks: without it, then
            return _build_timm(name, config)
        raise ConfigError(f"timm cannot build {name} with {options | asked}: {error}") from error
    if not isinstance(model.get_classifier(), nn.Module):  # type: ignore[operator]  # timm's convention
        raise ConfigError(f"{name} has several last layers, as for distillation; choose a model with one")
    if small:
        _use_small_stem(model)
    return model


def _use_small_stem(model: nn.Module) -> None:
    """Replaces a stem's first strided convolution by a 3×3 one of stride 1, and drops the pooling behind it.

    The usual change for CIFAR (He et al. 2016, section 4.2), which otherwise leaves a ResNet one pixel to look at.
    """
    first = getattr(model, "default_cfg", {}).get("first_conv")
    if not isinstance(first, str):
        return
    conv = model.get_submodule(first)
    if isinstance(conv, nn.Conv2d) and conv.stride[0] == 2 and conv.kernel_size[0] <= 7:
        bias = conv.bias is not None
        replacement = nn.Conv2d(conv.in_channels, conv.out_channels, 3, stride=1, padding=1, bias=bias)
        nn.init.kaiming_normal_(replacement.weight, mode="fan_out", nonlinearity="relu")
        model.set_submodule(first, replacement)
        for pool in ("maxpool", "features.pool0"):
            if pool in dict(model.named_modules()):
                model.set_submodule(pool, nn.Identity())
