"""BatchNorm's statistics: of averaged weights in training, and estimated from images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dhvt.model.dhvt import DHVT


def find_norms(model: nn.Module) -> list[_BatchNorm]:
    """Its BatchNorm layers that keep statistics."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]


def keep_statistics_of_last_batch(model: nn.Module) -> None:
    """Makes BatchNorm's running statistics those of the last batch, for a model whose buffers are averaged with its weights.

    The average then has the mean of the batches' statistics over the same steps as its weights. PyTorch's own running mean,
    which starts at mean 0 and variance 1 and takes a tenth of each batch, would come in between: 30 steps later a twentieth
    of the variance is still that 1, and a network whose features have a variance of 0.01 outputs the same for every image.
    """
    for norm in find_norms(model):
        norm.momentum = 1.0


@contextmanager
def estimating_statistics(model: nn.Module) -> Iterator[None]:
    """Within it, the model's BatchNorm statistics are the means over the forward passes; all else is in evaluation mode."""
    norms = find_norms(model)
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    if isinstance(model, DHVT):
        model.training = True  # this flag alone: all of the last block runs, and not only its class token
    try:
        yield
    finally:
        model.eval()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
