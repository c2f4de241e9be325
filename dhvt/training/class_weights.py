"""The loss of a step, in which images of rare classes may count more."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

ClassWeights = Literal["none", "balanced", "sqrt"]


def weigh_classes(kind: ClassWeights, labels: NDArray[np.int64], classes: int) -> Tensor | None:
    """The weight of an image of each class in the loss, ``(classes,)`` float32; None where all count alike.

    Their mean over the training images is 1, so that the learning rate keeps its meaning.

    Args:
        kind: ``balanced`` gives every class the same total weight, that is 1 / its images; ``sqrt`` the root of that.
        labels: of the training images.
    """
    if kind == "none":
        return None
    counts = np.bincount(labels, minlength=classes)
    weights = 1 / np.maximum(counts, 1) ** (1.0 if kind == "balanced" else 0.5)
    return torch.tensor(weights * len(labels) / (weights * counts).sum(), dtype=torch.float32)


def weighted_cross_entropy(logits: Tensor, targets: Tensor, class_weights: Tensor | None, label_smoothing: float) -> Tensor:
    """Mean over the images of their cross-entropy times the weight of their class.

    The mean is over the number of images, not over the sum of their weights as in :func:`torch.nn.functional.cross_entropy`:
    it is the same however a batch is cut into micro-batches and shared out over processes.

    Args:
        logits: ``(B, classes)``.
        targets: ``(B,)`` labels, or ``(B, classes)`` probabilities where images are mixed, whose weights are mixed too. They
            are not smoothed yet, so that the weight is that of the images' own classes.
        class_weights: see :func:`weigh_classes`.
    """
    if class_weights is None:
        return functional.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    losses = functional.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction="none")  # (B,)
    weights = class_weights[targets] if targets.ndim == 1 else targets @ class_weights  # (B,)
    return (losses * weights).mean()
