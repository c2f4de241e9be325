"""The rules of ``--img-size auto`` and ``--epochs auto``, for ``dhvt train`` and for the advice of ``dhvt check``.

The image size is the smallest of :data:`SIZES` that keeps the images' median shorter side, and the patch size leaves 64 to
196 patches, the paper's numbers at 32 and at 224 pixels. A training that would take longer than its time budget gets
smaller images. How long it takes is calculated from the arithmetic, never measured, so that one machine chooses the same
each time.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dhvt.data.formats import FORMATS
from dhvt.data.sources import ImageSource
from dhvt.errors import ImageError
from dhvt.model.config import VARIANTS, DHVTConfig

SIZES = (32, 48, 64, 96, 128, 160, 224)
"""Pixels of a side that ``--img-size auto`` chooses from."""

SMALL_VARIANT = "dhvt_tiny_cifar_patch4"
"""The tiny DHVT for images of up to 96 pixels; its patches of 4 pixels become 8 for the larger of them."""

FEWEST_TOKENS, MOST_TOKENS = 64, 196
"""Patches of an image. With fewer a model sees little; each twice as many take a bit more than twice the time."""

FEWEST_EPOCHS, MOST_EPOCHS = 30, 300
STEPS = 300
"""Optimizer steps that ``--epochs auto`` gives a small set at least: 300 of batch 128 brought 1,281 photographs of hands in ten
classes to 98.75 % of unseen people's."""

GFLOPS_PER_CPU, GFLOPS_OF_A_GPU = 50.0, 20_000.0
"""Billions of floating-point operations a second that training reaches: measured on Zen 4 and AVX2 processors (45 to 65), and
a careful figure for a data centre's GPU."""

_BACKWARD = 3  # a training step does three times the arithmetic of a forward pass
_SAMPLE = 400  # images whose sizes are read


@dataclass(frozen=True, kw_only=True)
class SizeChoice:
    """What ``--img-size auto`` chose.

    Args:
        img_size: pixels of a side.
        wanted_size: what the data alone would have; larger than ``img_size`` where that exceeded the time budget.
        minutes: the calculated time of the whole training.
        gflop: billions of floating-point operations of a forward pass of one image.
    """

    img_size: int
    wanted_size: int
    minutes: float
    gflop: float


def sample_shorter_sides(source: ImageSource) -> NDArray[np.int64]:
    """The shorter sides in pixels of up to 400 evenly spaced images, from their headers; unreadable ones are omitted."""
    sides = []
    for index in np.linspace(0, len(source) - 1, min(len(source), _SAMPLE)).astype(int):
        try:
            with Image.open(io.BytesIO(source.read(int(index))), formats=FORMATS) as image:
                sides.append(min(image.size))
        except (ImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            continue
    return np.array(sides, dtype=np.int64)


def patch_size_for(img_size: int) -> int:
    """The smallest patch size that leaves at most :data:`MOST_TOKENS` patches: 4 at 32 and 48 pixels, 8 to 96, 16 to 224."""
    return next(patch for patch in (4, 8, 16) if (img_size // patch) ** 2 <= MOST_TOKENS or patch == 16)


def default_variant(img_size: int) -> tuple[str, dict[str, int]]:
    """The tiny DHVT whose patches fit an image size: a variant's name and the model options that change it."""
    patch = patch_size_for(img_size)
    name = "dhvt_tiny_domain_patch16" if patch == 16 else SMALL_VARIANT
    return name, {} if patch == VARIANTS[name].patch_size else {"patch_size": patch}


def default_config(img_size: int) -> DHVTConfig:
    """The architecture of :func:`default_variant`."""
    name, options = default_variant(img_size)
    return replace(
        VARIANTS[name], img_size=(img_size, img_size), patch_size=options.get("patch_size", VARIANTS[name].patch_size)
    )


def sizes_that_fit(patch_size: int, otherwise: int) -> tuple[int, ...]:
    """The :data:`SIZES` that leave 64 to 196 patches.

    Args:
        otherwise: the size, if none does; rounded up to whole patches.
    """
    fitting = [size for size in SIZES if size % patch_size == 0 and FEWEST_TOKENS <= (size // patch_size) ** 2 <= MOST_TOKENS]
    return tuple(fitting) or (math.ceil(otherwise / patch_size) * patch_size,)


def choose_size(
    median_side: float,
    gflop: Callable[[int], float],
    minutes: Callable[[float], float],
    *,
    sizes: Sequence[int] = SIZES,
    budget: float,
) -> SizeChoice:
    """The smallest size that keeps the median shorter side, or a smaller one that a training has the time for.

    Args:
        median_side: of the training images, in pixels.
        gflop: billions of operations of a forward pass at a size; see :func:`forward_gflop`.
        minutes: the time of the training at so much an image; see :func:`training_minutes`.
        sizes: to choose from, rising.
        budget: minutes that the training may take; the smallest size is taken even if it takes longer.
    """
    wanted = next((size for size in sizes if size >= median_side), sizes[-1])
    for size in sorted((size for size in sizes if size <= wanted), reverse=True):
        cost = gflop(size)
        if minutes(cost) <= budget:
            break
    return SizeChoice(img_size=size, wanted_size=wanted, minutes=minutes(cost), gflop=cost)


def choose_epochs(images: int, batch_size: int) -> int:
    """Epochs that give :data:`STEPS` optimizer steps, but 30 at least and 300 at most.

    Args:
        images: to train on.
        batch_size: images of a step, all of them where there are fewer.
    """
    steps = max(images // max(batch_size, 1), 1)
    return min(max(math.ceil(STEPS / steps), FEWEST_EPOCHS), MOST_EPOCHS)


def forward_gflop(config: DHVTConfig) -> float:
    """Billions of floating-point operations of a forward pass of one image: two for each multiplication.

    The blocks have ``12 D² N + 2 N² D`` multiplications each; the patch embedding's 3×3 convolutions each halve the sides.
    """
    height, width = config.img_size
    width_of_tokens, tokens = config.embed_dim, config.grid_size[0] * config.grid_size[1]
    block = (4 + 2 * config.mlp_ratio) * width_of_tokens**2 * tokens + 2 * tokens**2 * width_of_tokens
    halvings, stem, channels = config.patch_size.bit_length() - 1, 0.0, config.in_chans
    for stage in range(1, halvings + 1):
        following = width_of_tokens >> (halvings - stage)
        stem += 9 * channels * following * height * width / 4**stage
        channels = following
    return 2e-9 * (config.depth * block + stem)


def training_minutes(
    gflop: float, *, images: int, epochs: int, resolutions: Sequence[tuple[float, float]] = ((1.0, 1.0),), gflops: float
) -> float:
    """The calculated minutes of a training, without reading and validating.

    Args:
        gflop: of a forward pass of one image at full size.
        images: of an epoch.
        resolutions: the recipe's; a step's arithmetic goes with the area.
        gflops: billions of operations a second, see :func:`device_gflops`.
    """
    area, start = 0.0, 0.0
    for until, scale in resolutions:
        area, start = area + (until - start) * scale**2, until
    return _BACKWARD * gflop * images * epochs * area / gflops / 60


def device_gflops(device: str, cpus: int) -> float:
    """Billions of operations a second to calculate with: of so many processors, or of a GPU.

    Args:
        device: ``cpu``, ``cuda`` or ``mps``.
    """
    return GFLOPS_OF_A_GPU if device == "cuda" else GFLOPS_PER_CPU * cpus if device == "cpu" else 10 * GFLOPS_PER_CPU
