"""Each operation's pixels against Pillow's, as timm calls it."""

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import NAME_TO_OP

from dhvt.training.augmentation.operations import OPERATIONS, apply

FILL = (124, 116, 104)
COUNT = 40
RANGES = {
    "ShearX": (-0.3, 0.3),
    "ShearY": (-0.3, 0.3),
    "TranslateXRel": (-0.45, 0.45),
    "TranslateYRel": (-0.45, 0.45),
    "Rotate": (-30, 30),
    "GaussianBlur": (0.1, 2),
    "Posterize": (1, 8),
    "Solarize": (0, 256),
    "SolarizeAdd": (0, 110),
} | dict.fromkeys(("Brightness", "Contrast", "Color", "Sharpness"), (0.1, 1.9))
LEVELS_OFF = {"GaussianBlur": 3} | dict.fromkeys((*list(RANGES)[:5], "AutoContrast"), 1)
"""By operation: how far a value may be off; all others are equal. Pillow rounds after each of a blur's six passes."""


def images(rng, height, width):
    """Half noise, half smooth, of which some have few values."""
    noise = rng.integers(0, 256, (COUNT // 2, height, width, 3))
    y, x = np.mgrid[:height, :width, :1][:2]
    waves = np.sin(rng.uniform(0.05, 0.4, (COUNT // 2, 1, 1, 3)) * (x + 2 * y) + rng.uniform(0, 6, (COUNT // 2, 1, 1, 3)))
    smooth = 128 + rng.integers(1, 120, (COUNT // 2, 1, 1, 1)) * waves
    return np.concatenate((noise, smooth)).astype(np.uint8)


@pytest.mark.parametrize("name", OPERATIONS)
def test_pixels_are_those_of_pillow(name):
    rng = np.random.default_rng(0)
    pixels = images(rng, 32, 24)
    arguments, is_bicubic = rng.uniform(*RANGES.get(name, (0, 1)), COUNT), rng.random(COUNT) < 0.5
    if name in ("Posterize", "Solarize", "SolarizeAdd"):
        arguments = arguments.round()
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    apply(batch, np.full(COUNT, name), arguments, is_bicubic=is_bicubic, fill=FILL)
    has_argument = name not in ("AutoContrast", "Equalize", "Invert")
    to_number = int if name in ("Posterize", "Solarize", "SolarizeAdd") else float
    for got, image, argument, bicubic in zip(batch.permute(0, 2, 3, 1).numpy(), pixels, arguments, is_bicubic, strict=True):
        resample = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
        given = (to_number(argument),) if has_argument else ()
        expected = NAME_TO_OP[name](Image.fromarray(image), *given, resample=resample, fillcolor=FILL)
        difference = np.abs(got.astype(int) - np.asarray(expected).astype(int))
        assert difference.max() <= LEVELS_OFF.get(name, 0)
        assert (difference > 1).mean() < 0.25


def test_no_image_is_posterized_to_nothing():
    """timm's increasing policies ask for 0 bits at their greatest strength, which Pillow from 13 on refuses."""
    batch = torch.full((1, 3, 4, 4), 200, dtype=torch.uint8)
    apply(batch, np.array(["Posterize"]), np.zeros(1), is_bicubic=np.zeros(1, dtype=bool), fill=FILL)
    assert batch.unique().tolist() == [128]


def test_each_image_has_its_own_operation():
    batch = torch.full((3, 3, 8, 8), 100, dtype=torch.uint8)
    names = np.array(["Invert", "", "Brightness"])
    apply(batch, names, np.array([0.0, 0.0, 0.5]), is_bicubic=np.zeros(3, dtype=bool), fill=FILL)
    assert batch[:, 0, 0, 0].tolist() == [155, 100, 50]
