"""Intermediate features of a transformer in the forms that timm's feature extractors ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from dhvt.configuration import require
from dhvt.model.layers import Grid

Indices = int | Sequence[int] | None
FeatureFormat = Literal["NCHW", "NLC"]


def resolve_indices(depth: int, indices: Indices) -> list[int]:
    """Block numbers from 0: the last n for an int, all for None; a negative number counts from the end.

    Raises:
        ConfigError: a number is out of range.
    """
    if indices is None:
        return list(range(depth))
    if isinstance(indices, int):
        require(0 < indices <= depth, f"asked for the last {indices} blocks; give 1 to {depth}")
        return list(range(depth - indices, depth))
    require(len(indices) > 0, f"no block asked for; give numbers from {-depth} to {depth - 1}")
    for index in indices:
        require(-depth <= index < depth, f"there is no block {index}; give {-depth} to {depth - 1}")
    return [index % depth for index in indices]


def split_tokens(tokens: Tensor, grid: Grid, output_fmt: FeatureFormat) -> tuple[Tensor, Tensor]:
    """Patch tokens as ``(B, D, gh, gw)`` (``NCHW``) or ``(B, N - 1, D)`` (``NLC``), and the class token ``(B, 1, D)``."""
    cls_token, patches = tokens[:, :1], tokens[:, 1:]
    if output_fmt == "NCHW":
        patches = patches.transpose(1, 2).unflatten(2, grid).contiguous()  # (B, D, gh, gw)
    return patches, cls_token


def arrange_features(
    features: Tensor | None, intermediates: list[tuple[Tensor, Tensor]], with_prefix: bool, as_dict: bool
) -> dict[str, Any] | list[Any] | tuple[Tensor, list[Any]]:
    """What ``forward_intermediates`` of timm's models returns for the same arguments.

    Args:
        features: the final features ``(B, N, D)``, or None to leave them out.
        intermediates: each block's patches and class token, of :func:`split_tokens`.
        with_prefix: include the class tokens.
        as_dict: return a dictionary.
    """
    patches = [pair[0] for pair in intermediates]
    if as_dict:
        named: dict[str, Any] = {"image_intermediates": patches}
        if with_prefix:
            named["image_intermediates_prefix"] = [pair[1] for pair in intermediates]
        return named if features is None else named | {"image_features": features}
    listed: list[Any] = list(intermediates) if with_prefix else patches
    return listed if features is None else (features, listed)
