"""Augmentation of images and of what is decoded for it."""

import numpy as np
import pytest
from PIL import Image

from dhvt.data.preprocess import Preprocess
from dhvt.data.sources import open_dataset
from dhvt.training.config import Recipe
from dhvt.training.dataset import TrainingImages
from dhvt.training.seeds import seed_everything
from dhvt.training.transforms import build_transform


def noise(height, width):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "domainnet", "imagenet"])
def test_no_draw_of_the_papers_augmentation_fails(name):
    """Pillow 13 refuses to posterize to 0 bits, which timm asks for in one of 700 images."""
    transform = build_transform(Preprocess(size=(16, 16)), Recipe.preset(name))
    seed_everything(0)
    image = noise(16, 16)
    for _ in range(3000):
        assert transform(image).shape == (3, 16, 16)


@pytest.mark.parametrize(("size", "min_area", "side"), [(224, 0.08, 1000), (224, 1.0, 500), (32, 0.08, 250)])
def test_a_jpeg_is_decoded_large_enough_for_the_smallest_crop(tmp_path, size, min_area, side):
    """And no larger: of 2000 pixels, an eighth, a quarter, half or all."""
    recipe = Recipe(crop="resized", resized_min_area=min_area)
    (tmp_path / "class").mkdir()
    noise(2000, 2000).save(tmp_path / "class" / "image.jpg")
    images = TrainingImages(open_dataset(tmp_path), Preprocess(size=(size, size)), recipe)
    decoded = []
    images.transform = lambda image: decoded.append(image.size)
    images[0, 0, 0]
    assert decoded == [(side, side)]
    assert side * (min_area * 3 / 4) ** 0.5 >= size
