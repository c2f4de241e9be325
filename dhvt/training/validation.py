"""What a model in training says of the validation images, which the processes share out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, Dataset

from dhvt.data.batches import read_pixels
from dhvt.data.preprocess import Preprocess
from dhvt.data.sources import ImageSource, Subset
from dhvt.errors import ImageError
from dhvt.evaluation.metrics import Outputs, collect_outputs
from dhvt.model.inference import InferenceModel
from dhvt.training.signals import leave_stopping_to_the_parent

_SENT_TOGETHER = 16  # images that a loader's process hands over at once

Pixels = NDArray[np.uint8] | ImageError


class _Decoded(Dataset[Pixels]):
    def __init__(self, source: ImageSource, preprocess: Preprocess) -> None:
        self.source, self.preprocess = source, preprocess

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Pixels:
        return read_pixels(self.source, self.preprocess, index)


def _decode(source: ImageSource, preprocess: Preprocess, num_workers: int) -> Iterator[Pixels]:
    """All images in order, decoded by so many processes."""
    loader: DataLoader[Pixels] = DataLoader(
        _Decoded(source, preprocess),
        batch_size=_SENT_TOGETHER,
        num_workers=num_workers,
        collate_fn=list,  # a broken image is no array
        worker_init_fn=leave_stopping_to_the_parent,
        generator=torch.Generator(),  # the training's own is not touched
    )
    for part in loader:
        yield from part


def collect_validation(
    model: nn.Module,
    source: ImageSource,
    preprocess: Preprocess,
    accelerator: Accelerator,
    *,
    num_workers: int,
    on_error: Callable[[str], None],
) -> Outputs:
    """The model's outputs for all images of a source, in every process; each computes its share.

    Args:
        model: on the accelerator's device.
        num_workers: processes that decode this process's share; 0 decodes in it.
        on_error: called for each broken image of the share, which is left out.

    Raises:
        DataError: not one image of a share can be read.
    """
    graph = InferenceModel(model, preprocess).to(accelerator.device).eval()

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode(), accelerator.autocast():
            logits: NDArray[np.float32] = graph(torch.from_numpy(images).to(accelerator.device)).float().cpu().numpy()
        return logits

    mine = np.arange(accelerator.process_index, len(source), accelerator.num_processes)
    share = Subset(source, mine)
    pixels = _decode(share, preprocess, num_workers) if num_workers and len(mine) else None
    outputs = collect_outputs(predict, share, preprocess, on_error=on_error, pixels=pixels)
    if accelerator.num_processes > 1:
        outputs = Outputs.join(gather_object([replace(outputs, indices=mine[outputs.indices])]))
    return outputs
