"""All images of a source in order, decoded by several processes, and kept for the next time where they fit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from dhvt.data.batches import read_pixels
from dhvt.data.preprocess import Preprocess
from dhvt.data.sources import ImageSource
from dhvt.errors import ImageError
from dhvt.training.signals import leave_stopping_to_the_parent

Pixels = NDArray[np.uint8] | ImageError
"""``(H, W, 3)``, or why the image cannot be read."""

_SENT_TOGETHER = 16  # images that a loader's process hands over at once


class _Decoded(Dataset[Pixels]):
    def __init__(self, source: ImageSource, preprocess: Preprocess) -> None:
        self.source, self.preprocess = source, preprocess

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Pixels:
        return read_pixels(self.source, self.preprocess, index)


class DecodedSource:
    """The images of a source, each time that it is iterated over.

    Args:
        num_workers: processes that decode; 0 decodes in this one.
        keep: the images in memory, once they are decoded. Else the processes live on for the next time.
    """

    def __init__(self, source: ImageSource, preprocess: Preprocess, num_workers: int, *, keep: bool = False) -> None:
        self._images = _Decoded(source, preprocess)
        self._keep, self._kept = keep, list[Pixels]()
        self._loader: DataLoader[Pixels] | None = None
        if num_workers and len(source):
            self._loader = DataLoader(
                self._images,
                batch_size=_SENT_TOGETHER,
                num_workers=num_workers,
                persistent_workers=not keep,
                collate_fn=list,  # a broken image is not an array
                worker_init_fn=leave_stopping_to_the_parent,
                generator=torch.Generator(),  # the training's own is not touched
            )

    def __iter__(self) -> Iterator[Pixels]:
        if self._keep and len(self._kept) == len(self._images):
            yield from self._kept
            return
        self._kept = []
        for pixels in self._decode():
            if self._keep:
                self._kept.append(pixels)
            yield pixels

    def _decode(self) -> Iterator[Pixels]:
        if self._loader is None:
            yield from (self._images[index] for index in range(len(self._images)))
            return
        for images in self._loader:
            yield from images
