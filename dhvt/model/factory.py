"""Every model that can be trained: the DHVT variants, and any classifier that timm knows."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import timm
import torch
from torch import nn

from dhvt.configuration import as_size, from_dict, require
from dhvt.errors import ConfigError
from dhvt.model.config import VARIANTS, DHVTConfig
from dhvt.model.dhvt import DHVT
from dhvt.model.small_stem import NAME, use_small_stem

SMALL_IMAGE = 64
"""Images with shorter sides up to this get a stem that does not shrink them eightfold at once."""

SMALL_PATCH = 4
DEFAULT_IMG_SIZE = 32
SET_ELSEWHERE = {
    "num_classes": "the data set gives the number of classes (--data)",
    "img_size": "give --img-size",
    "in_chans": "images have 3 channels (RGB)",
    "features_only": "a classifier is trained",
}
"""Arguments that are no model options, and where they come from."""


def configure(
    name: str,
    *,
    num_classes: int,
    img_size: Any = None,
    drop_path_rate: float = 0.0,
    options: dict[str, Any] | None = None,
    pretrained: bool = False,
) -> dict[str, Any]:
    """The complete configuration that :func:`build` needs, as plain values for a checkpoint.

    Args:
        name: a DHVT variant, or a model of timm such as ``resnet50``.
        img_size: pixels of a side, or ``(height, width)``; by default the variant's, and 32 for a model of timm.
        drop_path_rate: becomes 0 for a model of timm that has no drop path.
        options: more fields of :class:`DHVTConfig`, or arguments of timm's model.
        pretrained: the model will have timm's published weights: its first layers stay as they are for small images too, and
            the image size is by default theirs.

    Raises:
        ConfigError: no such model, the values do not fit it, or an option is set elsewhere.
    """
    options = options or {}
    for option, hint in SET_ELSEWHERE.items():
        require(option not in options, f"model option {option}={options.get(option)!r} cannot be set: {hint}")
    if name in VARIANTS:
        changes: dict[str, Any] = {"num_classes": num_classes, "drop_path_rate": drop_path_rate}
        if img_size is not None:
            changes["img_size"] = as_size(img_size)
        config = from_dict(DHVTConfig, VARIANTS[name].to_dict() | changes | options)
        require(config.global_pool != "", "model option global_pool='' gives an output for each token; a classifier needs one")
        return config.to_dict()
    require(timm.is_model(name), f"no model {name!r}; {_suggest(name)}")
    default_cfg = timm.get_pretrained_cfg(name)
    default_size = default_cfg.input_size[1:] if pretrained and default_cfg is not None else DEFAULT_IMG_SIZE
    config_of_timm = {
        "library": "timm",
        "num_classes": num_classes,
        "img_size": as_size(img_size or default_size),
        "keeps_stem": pretrained,
        "fixed_input_size": bool(default_cfg is not None and default_cfg.fixed_input_size),
        "drop_path_rate": drop_path_rate,
        "options": options,
    }
    if drop_path_rate and not _has_drop_path(name, config_of_timm):
        config_of_timm["drop_path_rate"] = 0.0
    return config_of_timm


def complete(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of an older checkpoint with the fields that were added later, at their defaults.

    Raises:
        ConfigError: it has unknown fields, or values that do not fit.
    """
    if config.get("library") == "timm":
        return {"fixed_input_size": False, "keeps_stem": False} | config
    return from_dict(DHVTConfig, config).to_dict()


def build(name: str, config: dict[str, Any]) -> nn.Module:
    """A freshly initialised model, normalised images ``(B, 3, H, W)`` to logits ``(B, num_classes)``.

    Args:
        name: the model's.
        config: what :func:`configure` gave.

    Raises:
        ConfigError: the configuration does not fit the model.
    """
    if config.get("library") != "timm":
        return DHVT(from_dict(DHVTConfig, config))
    arguments = timm_arguments(config)
    try:
        model: nn.Module = timm.create_model(name, **arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise ConfigError(f"timm cannot build {name} with {arguments}: {error}") from error
    if not isinstance(model.get_classifier(), nn.Module):  # type: ignore[operator]  # timm's convention
        raise ConfigError(f"{name} has several last layers, as for distillation; choose a model with one")
    if is_adapted(config):
        use_small_stem(model)
    return model


def is_adapted(config: dict[str, Any]) -> bool:
    """Whether the first layers of timm's model are changed for small images."""
    return not config.get("keeps_stem") and min(config["img_size"]) <= SMALL_IMAGE


def describe_for_timm(name: str, config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and arguments with which ``timm.create_model`` builds what :func:`build` does; without drop rates.

    Raises:
        ConfigError: timm has no such model, or cannot build it.
    """
    require(timm.is_model(name), f"timm has no model {name!r}; {_suggest(name)}")
    if config.get("library") != "timm":
        usual = VARIANTS[name].to_dict()
        arguments = {key: value for key, value in config.items() if value != usual.get(key)}
    else:
        arguments = timm_arguments(config)
        if is_adapted(config) and use_small_stem(timm.create_model(name, **arguments)):
            name, arguments = NAME, {"base": name, **arguments}
    return name, {key: value for key, value in arguments.items() if key not in ("drop_path_rate", "drop_rate")}


def size_multiple(config: dict[str, Any]) -> int:
    """What the sides of a training image must be multiples of; 0 if they must be the configured ones."""
    if config.get("library") != "timm":
        return 0 if config["pos_embed"] else int(config["patch_size"])
    return 0 if config.get("fixed_input_size") else SMALL_PATCH


def _suggest(name: str) -> str:
    """Names to use in place of an unknown one. DHVT's own come first for a name that starts like theirs."""
    close = [variant for variant in VARIANTS if name.startswith("dhvt") and variant.startswith(name)]
    if not close:
        close = get_close_matches(name, [*VARIANTS] if name.startswith("dhvt") else [*VARIANTS, *timm.list_models()], n=3)
    others = f"the DHVT variants are {', '.join(VARIANTS)}; timm.list_models() lists the others"
    return f"did you mean {', '.join(close)}? {others}" if close else others


def timm_arguments(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration as arguments of ``timm.create_model``."""
    arguments: dict[str, Any] = {"num_classes": config["num_classes"]}
    if config.get("fixed_input_size"):
        arguments["img_size"] = as_size(config["img_size"])
        if is_adapted(config):
            arguments["patch_size"] = SMALL_PATCH
    if config["drop_path_rate"]:
        arguments["drop_path_rate"] = config["drop_path_rate"]
    return {**arguments, **config.get("options", {})}


def _has_drop_path(name: str, config: dict[str, Any]) -> bool:
    """Whether timm's model takes ``drop_path_rate``; most convolutional networks do not. Only building it tells."""
    if "drop_path_rate" in config["options"]:
        return True
    try:
        with torch.random.fork_rng(devices=[]):
            timm.create_model(name, **timm_arguments(config))
    except TypeError as error:
        return "drop_path_rate" not in str(error)
    except (ValueError, AssertionError, RuntimeError):
        return True  # build() reports what does not fit
    return True
