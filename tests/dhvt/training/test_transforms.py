"""What training makes of its batches, and what is decoded for them."""

import numpy as np
import pytest
import torch
from PIL import Image

from dhvt.data.preprocess import Preprocess
from dhvt.data.sources import open_dataset
from dhvt.training import dataset
from dhvt.training.augmentation.draws import Draws
from dhvt.training.config import Recipe, preset_names
from dhvt.training.dataset import DecodedImages
from dhvt.training.transforms import BatchTransform

KEYS = np.array([[0, index, 0] for index in range(6)])


def transform(recipe, size=32):
    preprocess = Preprocess(size=(size, size))
    return BatchTransform(recipe, preprocess, torch.device("cpu"), num_classes=3, size_multiple=4)


@pytest.mark.parametrize("name", preset_names())
def test_what_becomes_of_an_image_does_not_depend_on_its_batch(name):
    """Nor what becomes of a pair that is mixed."""
    images = torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels, augment = torch.tensor([0, 1, 2] * 2), transform(Recipe.preset(name, random_erasing=1.0))
    whole = augment(images, labels, Draws(0, KEYS), 5, 1.0)
    part = [0, 2, 3, 5]
    of_part = augment(images[part], labels[part], Draws(0, KEYS[part]), 5, 1.0)
    assert all(torch.equal(got, expected[part]) for got, expected in zip(of_part, whole, strict=True))
    other_epoch = augment(images, labels, Draws(0, KEYS + np.array([1, 0, 0])), 5, 1.0)[0]
    assert not torch.isclose(other_epoch, whole[0]).flatten(1).all(1).any()


@pytest.mark.parametrize(("mode", "corner"), [("constant", 0), ("reflect", 200)])
def test_the_crop_shifts_in_what_the_recipe_says(mode, corner):
    recipe = Recipe.preset("short", padding_mode=mode, color_jitter=0.0)
    images = torch.full((6, 32, 32, 3), 200, dtype=torch.uint8)
    assert transform(recipe).augment(images, Draws(0, KEYS)).min() == corner


def test_jitter_changes_brightness_contrast_and_saturation():
    images = torch.tensor([90, 120, 200], dtype=torch.uint8).expand(6, 32, 32, 3).clone()
    images[:, :16] //= 2
    plain = transform(Recipe.preset("short", color_jitter=0.0)).augment(images, Draws(0, KEYS)).float()
    jittered = transform(Recipe.preset("short", color_jitter=0.5)).augment(images, Draws(0, KEYS)).float()
    for measure in (lambda x: x.mean((1, 2, 3)), lambda x: x.mean(1).std((1, 2)), lambda x: x.std(1).mean((1, 2))):
        ratio = measure(jittered) / measure(plain)
        assert ratio.std() > 0.05
        assert ratio.max() < 2.6


@pytest.mark.parametrize(("size", "min_area", "side"), [(224, 0.08, 1000), (224, 1.0, 500), (32, 0.08, 250)])
def test_a_jpeg_is_decoded_large_enough_for_the_smallest_crop(tmp_path, monkeypatch, size, min_area, side):
    """And no larger: of 2000 pixels, an eighth, a quarter, half or all."""
    recipe = Recipe(crop="resized", resized_min_area=min_area)
    (tmp_path / "class").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "class" / "image.jpg")
    seen, draw_crop = [], dataset.draw_crop
    monkeypatch.setattr(dataset, "draw_crop", lambda draws, *size: seen.append(size[:2]) or draw_crop(draws, *size))
    pixels, label, key = DecodedImages(open_dataset(tmp_path), Preprocess(size=(size, size)), recipe)[0, 0, 0]
    assert (pixels.shape, label, key) == ((size, size, 3), 0, (0, 0, 0))
    assert seen == [(side, side)]
    assert side * (min_area * 3 / 4) ** 0.5 >= size
