"""Images that are decoded once and kept, at the size of training, on the device that trains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dhvt.data.sources import ImageSource, Subset
from dhvt.errors import ConfigError, ImageError
from dhvt.hardware.memory import available_memory
from dhvt.training.decoding import DecodedSource
from dhvt.training.distributed import processes_of_machine
from dhvt.training.run import Run

_LARGEST_SHARE = 0.25
"""Of the free memory, for images that are kept without ``--cache``."""


@dataclass(frozen=True)
class StoredImages:
    """Decoded images.

    Attributes:
        pixels: ``(N, H, W, 3)`` uint8 on the device, black where an image is broken.
        broken: the messages of those that cannot be read, by index.
    """

    pixels: Tensor
    broken: dict[int, str]


def images_fit(run: Run) -> bool:
    """Whether a run's training images are to be kept: as ``--cache`` says, else where they fit.

    Raises:
        ConfigError: ``--cache`` with a recipe that cuts its crops out of the full images, or with too little memory.
    """
    cache, is_pad = run.options.cache, run.recipe.crop == "pad"
    if cache and not is_pad:
        raise ConfigError('--cache keeps images at the size of training; it needs a recipe with crop = "pad"')
    if cache is False or not is_pad:
        return False
    needed = len(run.images.train) * run.preprocess.size[0] * run.preprocess.size[1] * 3
    free = _free_memory(run)
    if cache and needed > free:
        raise ConfigError(
            f"--cache needs {needed:,} bytes of memory and {free:,} are free; omit it, or take a smaller --img-size"
        )
    return needed <= free * (1 if cache else _LARGEST_SHARE)


def _free_memory(run: Run) -> int:
    """Bytes that each process may take of its device; a machine's processes share its main memory.

    Each device keeps all images: the order of an epoch deals any of them to any process.
    """
    accelerator = run.accelerator
    if accelerator.device.type == "cuda":
        return int(torch.cuda.mem_get_info(accelerator.device)[0])
    return available_memory() // processes_of_machine(accelerator)


def store_images(run: Run, source: ImageSource) -> StoredImages:
    """Decodes a source, with a progress bar where it takes long.

    Each image goes to the device at once, so that main memory never holds all of them, once for each process.
    """
    pixels = torch.zeros((len(source), *run.preprocess.size, 3), dtype=torch.uint8, device=run.accelerator.device)
    broken: dict[int, str] = {}
    decoded = DecodedSource(source, run.preprocess, run.options.num_workers)
    is_hidden = not run.accelerator.is_main_process
    for index, found in enumerate(tqdm(decoded, "decode", len(source), unit="image", leave=False, delay=2, disable=is_hidden)):
        if isinstance(found, ImageError):
            broken[index] = f"{source.locate(index)}: {found}"
        else:
            pixels[index] = torch.from_numpy(np.array(found))
    return StoredImages(pixels, broken)


def open_validation_images(run: Run) -> DecodedSource:
    """This process's share of a run's validation images; kept in main memory where they fit, unless ``--no-cache``."""
    accelerator = run.accelerator
    share = Subset(run.images.val, np.arange(accelerator.process_index, len(run.images.val), accelerator.num_processes))
    needed = len(share) * run.preprocess.size[0] * run.preprocess.size[1] * 3
    fits = needed <= available_memory() // processes_of_machine(accelerator) * _LARGEST_SHARE
    return DecodedSource(share, run.preprocess, run.options.num_workers, keep=run.options.cache is not False and fits)
