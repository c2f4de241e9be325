"""The network from uint8 pixels to logits, with the normalisation inside."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dhvt.data.batches import Predict
from dhvt.data.preprocess import Preprocess


class Normalize(nn.Module):
    """``(B, H, W, 3)`` uint8 RGB to ``(B, 3, H, W)`` float32, minus the mean, over the standard deviation."""

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        std = torch.tensor(preprocess.std).view(1, 3, 1, 1)
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", -torch.tensor(preprocess.mean).view(1, 3, 1, 1) / std, persistent=False)

    scale: Tensor
    shift: Tensor

    def forward(self, images: Tensor) -> Tensor:
        # The cast comes first: TensorRT's parser rejects a uint8 transpose.
        # (B, 3, H, W), laid out like that: else PyTorch 2.9 exports a mean as as_strided, which OpenVINO does not know
        return images.to(torch.float32).permute(0, 3, 1, 2).contiguous() * self.scale + self.shift


class InferenceModel(nn.Module):
    """Images ``(B, H, W, 3)`` uint8 RGB to logits ``(B, classes)`` float32: what is evaluated, exported and served."""

    def __init__(self, model: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.normalize = Normalize(preprocess)
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(self.normalize(images)).float()  # (B, classes)
        return logits


def torch_predict(model: nn.Module) -> Predict:
    """Returns a function from images to logits that runs the model on the CPU; the reference for other runtimes."""

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = model(torch.from_numpy(images)).numpy()
        return logits

    return predict
