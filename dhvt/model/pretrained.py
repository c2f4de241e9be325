"""timm's models with the weights that timm publishes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from dhvt.configuration import require
from dhvt.errors import CheckpointError, ConfigError
from dhvt.model.config import VARIANTS
from dhvt.model.factory import build, timm_arguments

_PROBE_S = 5.0
"""How long the Hub may take to answer at all; its own client tries for most of a minute."""


def require_published_weights(name: str) -> None:
    """Checks that timm publishes weights of a model.

    Raises:
        ConfigError: it does not.
    """
    hint = "train without --pretrained, or start from a checkpoint with --init"
    require(name != "auto", "--pretrained needs a --variant, as resnet18: timm's models have pretrained weights")
    require(name not in VARIANTS, f"there are no pretrained weights of {name}: timm's models have some, as resnet18; {hint}")
    require(timm.is_model_pretrained(name), f"timm has no pretrained weights of {name}; {hint}")


def published_preprocessing(name: str) -> dict[str, Any]:
    """Mean, standard deviation and interpolation that a model's published weights expect, as fields of ``Preprocess``."""
    published = timm.get_pretrained_cfg(name)
    assert published is not None
    return {"mean": published.mean, "std": published.std, "interpolation": published.interpolation}


def published_size(name: str) -> int:
    """Pixels of a side of the images that a model's published weights were trained on."""
    published = timm.get_pretrained_cfg(name)
    assert published is not None
    return int(published.input_size[-1])


def build_pretrained(name: str, config: dict[str, Any], file: Path | None = None) -> nn.Module:
    """What :func:`dhvt.model.factory.build` builds, with published weights; the classifier stays freshly initialised.

    Args:
        config: of :func:`dhvt.model.factory.configure` with ``pretrained``.
        file: the weights as downloaded, in place of those of the Hugging Face Hub or its cache.

    Raises:
        ConfigError: they cannot be downloaded.
        CheckpointError: the file cannot be read, or is of another model.
    """
    with torch.random.fork_rng(devices=[]):
        fresh = build(name, config).state_dict()
    overlay = None if file is None else {"file": str(file)}
    arguments = timm_arguments(config)
    try:
        with _answering_soon():
            model: nn.Module = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **arguments)
    except Exception as error:  # of timm, the Hub's client, its transport or the file's format
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if file is not None:
            raise CheckpointError(f"{file} has no weights that fit timm's {name}: {reason}") from error
        raise ConfigError(
            f"the pretrained weights of {name} cannot be loaded from the Hugging Face Hub: {reason} Without a network, "
            "download them elsewhere and give the file: --pretrained --init model.safetensors"
        ) from error
    classifier = str(model.pretrained_cfg["classifier"])  # type: ignore[index]  # timm's convention
    kept = [
        key
        for key, value in model.state_dict().items()
        if value.ndim > 1 and not key.startswith(classifier) and value.std() > 0 and torch.equal(value, fresh[key])
    ]
    if kept:
        raise CheckpointError(f"{file or name} lacks weights of timm's {name}, among them {kept[0]}")
    return model


@contextmanager
def _answering_soon() -> Iterator[None]:
    """Leaves the Hub's client to its cache where the Hub does not answer, so that it does not try again and again."""
    from huggingface_hub import constants, get_session

    was_offline = constants.HF_HUB_OFFLINE
    try:
        get_session().head(constants.ENDPOINT, timeout=_PROBE_S)
    except Exception:  # of whichever transport the client has
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was_offline
