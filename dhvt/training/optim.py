"""The optimizers of a recipe and their learning rate."""

from __future__ import annotations

import math

import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

from dhvt.training.config import Recipe
from dhvt.training.muon import Muon


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate of one step: linear warm-up, then cosine or linear decay to ``min_lr``."""
    warmup = recipe.warmup_epochs * steps_per_epoch
    peak = recipe.peak_lr()
    if step < warmup:
        return recipe.warmup_lr + (peak - recipe.warmup_lr) * step / warmup
    progress = (step - warmup) / max(recipe.epochs * steps_per_epoch - warmup, 1)
    remaining = 1 - progress if recipe.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return recipe.min_lr + (peak - recipe.min_lr) * remaining


def build_optimizers(model: nn.Module, recipe: Recipe, *, bf16: bool = False) -> list[torch.optim.Optimizer]:
    """AdamW, or Muon for the weight matrices inside the network and AdamW for the rest.

    Args:
        bf16: whether Muon's iterations are computed in bfloat16, as the rest of the training is.

    Not decayed are biases, weights of one dimension (norms), and what the model's ``no_weight_decay`` names: of a DHVT the
    class token and the head tokens' and position embeddings. The scale and shift of SOPE's affine layers, which are
    ``(1, C, 1, 1)``, are decayed, as in the authors' code.
    """
    matrices: list[Tensor] = []
    classifier = getattr(model, "get_classifier", nn.Identity)()  # timm's convention
    last_layer = {id(parameter) for parameter in classifier.parameters()}
    skip: set[str] = getattr(model, "no_weight_decay", set)()
    if recipe.optimizer == "muon":
        matrices = [
            parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
            and parameter.ndim >= 2
            and min(parameter.shape[:2]) > 1
            and id(parameter) not in last_layer
            and name not in skip  # position embeddings and tables of position biases, which are no matrices
        ]
    taken = {id(parameter) for parameter in matrices}
    groups = param_groups_weight_decay(model, recipe.weight_decay, no_weight_decay_list=skip)
    for group in groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in taken]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=recipe.lr, fused=_fuses(model))]
    if matrices:
        dtype = torch.bfloat16 if bf16 else torch.float32
        optimizers.append(Muon(matrices, lr=recipe.lr, weight_decay=recipe.weight_decay, dtype=dtype))
    return optimizers


def _fuses(model: nn.Module) -> bool:
    """Whether PyTorch has AdamW as one kernel for all weights of the model."""
    kinds = {parameter.device.type for parameter in model.parameters()}
    return kinds <= {"cpu", "cuda", "mps"} and all(parameter.is_floating_point() for parameter in model.parameters())
