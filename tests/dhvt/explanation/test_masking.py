"""The masking map finds the place that a class depends on."""

import numpy as np
import pytest

from dhvt.explanation.masking import MaskingMap

GREY = np.full(3, 128, np.float32)


def bright_square(height=32, width=32):
    """A dark image with a bright square, rows 4 to 12 and columns 20 to 28."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[4:12, 20:28] = 255
    return pixels


def run(pixels, score, *, size=16, **options):
    masking = MaskingMap(pixels, GREY, **{"masks": 200, "seed": 0} | options)
    batches = []
    for images in masking.batches(size):
        batches.append(images)
        masking.add(score(images))
    return masking.map(), batches


def brightness(images):
    """A score that depends on the square alone, 0 to 1."""
    return images[:, 4:12, 20:28].mean(axis=(1, 2, 3)) / 255


@pytest.mark.parametrize("shape", [(32, 32), (32, 48), (40, 32)])
def test_the_place_that_decides_has_the_largest_values(shape):
    found, _ = run(bright_square(*shape), brightness)
    assert found.shape == shape
    inside = found[5:11, 21:27].mean()
    outside = np.delete(found, np.s_[0:16], axis=0)
    assert inside > 0.15
    assert inside > 4 * np.abs(outside).mean()
    row, column = np.unravel_index(found.argmax(), shape)
    assert (3 <= row < 13, 19 <= column < 29) == (True, True)


def test_a_place_that_speaks_against_the_class_is_negative():
    found, _ = run(bright_square(), lambda images: 1 - brightness(images))
    assert found[5:11, 21:27].mean() < -0.15


def test_a_score_that_depends_on_nothing_gives_an_empty_map():
    found, _ = run(bright_square(), lambda images: np.full(len(images), 0.7))
    assert np.abs(found).max() < 1e-6


def test_masks_are_as_many_as_asked_in_batches_and_every_one_has_its_opposite():
    pixels = np.full((32, 32, 3), 255, np.uint8)
    _, batches = run(pixels, brightness, masks=25, size=8)
    assert [len(batch) for batch in batches] == [8, 8, 8, 1]
    masks = (batches[0][..., 0].astype(float) - 128) / 127
    assert masks.min() == 0
    assert masks.max() == 1
    assert np.allclose(masks[0::2] + masks[1::2], 1, atol=0.01)


def test_the_seed_decides_the_masks():
    first, second, other = (run(bright_square(), brightness, seed=seed, masks=20)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, second)
    assert not np.allclose(first, other)
