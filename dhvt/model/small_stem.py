"""A stem for small images in models of timm, which is registered with timm as the architecture ``small_stem``."""

from __future__ import annotations

from typing import Any

import timm
from timm.models import load_pretrained, resolve_pretrained_cfg
from torch import nn

NAME = "small_stem"


def use_small_stem(model: nn.Module) -> bool:
    """Replaces a stem's first strided convolution by a 3×3 one of stride 1, and drops the pooling behind it.

    The usual change for CIFAR (He et al. 2016, section 4.2); without it a ResNet's last feature map is one pixel.

    Returns:
        Whether the model has such a stem.
    """
    first = getattr(model, "default_cfg", {}).get("first_conv")
    conv = model.get_submodule(first) if isinstance(first, str) else None
    if not isinstance(conv, nn.Conv2d) or conv.stride[0] != 2 or conv.kernel_size[0] > 7:
        return False
    bias = conv.bias is not None
    replacement = nn.Conv2d(conv.in_channels, conv.out_channels, 3, stride=1, padding=1, bias=bias)
    nn.init.kaiming_normal_(replacement.weight, mode="fan_out", nonlinearity="relu")
    model.set_submodule(str(first), replacement)
    for pool in ("maxpool", "features.pool0"):
        if pool in dict(model.named_modules()):
            model.set_submodule(pool, nn.Identity())
    return True


def small_stem(
    pretrained: bool = False,
    *,
    base: str,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Any = None,
    cache_dir: Any = None,
    pretrained_model_args: Any = None,
    **arguments: Any,
) -> nn.Module:
    """The model ``base`` of timm with a stem for small images; the other arguments are those of ``timm.create_model``.

    With it ``timm.create_model("local-dir:…")`` loads what ``dhvt export --target timm`` wrote of such a model.
    """
    model: Any = timm.create_model(base, **arguments)
    use_small_stem(model)
    given: dict[str, Any] = {}
    if pretrained_cfg is not None or pretrained_cfg_overlay is not None:
        given = resolve_pretrained_cfg(NAME, pretrained_cfg, pretrained_cfg_overlay).to_dict(remove_null=True)
    model.pretrained_cfg = model.default_cfg = dict(model.pretrained_cfg) | given | {"architecture": NAME}
    if pretrained:
        load_pretrained(model, model.pretrained_cfg, num_classes=model.num_classes, cache_dir=cache_dir)
    return model  # type: ignore[no-any-return]  # timm gives the module untyped
