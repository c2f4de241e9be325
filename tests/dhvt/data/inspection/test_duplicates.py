"""Copies that were scaled or saved again are found, others are not, without comparing each with each."""

import numpy as np
import pytest
from PIL import Image

from dhvt.data.inspection.duplicates import group_exact, group_near
from dhvt.data.inspection.facts import ImageFacts, gather_facts
from dhvt.data.inspection.perceptual import Appearance
from tests.conftest import encode


def photograph(seed, side=64):
    """Smooth coloured noise, as unlike another one as two photographs."""
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    "change",
    [
        lambda image: encode(image, "JPEG", quality=40),
        lambda image: encode(image.resize((32, 32)), "PNG"),
        lambda image: encode(image.resize((160, 160)), "WEBP"),
        lambda image: encode(image.point(lambda value: min(255, round(1.05 * value + 5))), "PNG"),
    ],
)
def test_a_changed_copy_is_near_and_other_images_are_not(change):
    facts = [gather_facts(encode(photograph(seed))) for seed in range(40)]
    facts.append(gather_facts(change(photograph(7))))
    assert group_near(facts).groups == [[7, 40]]
    assert group_exact(facts) == []


def test_the_same_bytes_are_exact_and_blank_or_broken_images_are_not_near():
    facts = [gather_facts(encode(photograph(seed))) for seed in (0, 1, 0)]
    facts += [gather_facts(encode(Image.new("RGB", (20 + number, 20), "white"))) for number in range(3)]
    facts += [gather_facts(b"no image"), gather_facts(b"")]
    assert group_exact(facts) == [[0, 2]]
    assert group_near(facts).groups == []
    assert all(entry.appearance.is_blank for entry in facts[3:6])


def test_something_small_on_an_even_ground_is_not_the_same_as_something_else_there():
    pixels = np.full((64, 64, 3), 240, dtype=np.uint8)
    one, other = pixels.copy(), pixels.copy()
    one[28:34, 20:30], other[30:40, 30:36] = 60, 60
    assert group_near([gather_facts(encode(Image.fromarray(image))) for image in (one, other)]).groups == []


def organism(seed):
    """A dark, blotched ellipse on an even ground: at first glance like many others."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    blotches = Image.fromarray(rng.integers(0, 160, (12, 12), dtype=np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
    return Image.fromarray(np.where(np.hypot(y, 2 * x) < 0.7, np.asarray(blotches), 230).astype(np.uint8))


def test_where_all_images_are_alike_only_nearly_equal_ones_are_near():
    facts = [gather_facts(encode(organism(seed))) for seed in range(400)]
    facts.append(gather_facts(encode(organism(7), "JPEG", quality=60)))
    assert group_near(facts) == ([[7, 400]], True)


def test_30_000_images_of_which_many_look_alike_are_grouped():
    """Pairs at a distance of six bits, wherever these are; and one group, not 8 million pairs."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 30_000, dtype=np.uint64)
    for pair in range(100):
        bits = rng.choice(64, 6, replace=False)
        hashes[1000 + pair] = hashes[pair] ^ np.bitwise_or.reduce(np.uint64(1) << bits.astype(np.uint64))
    hashes[5000:9000] = hashes[5000]
    greys, colors = (rng.integers(0, 256, size, dtype=np.uint8).tobytes() for size in (256, 192))  # the same of all
    appearances = (Appearance(int(value), greys, colors, False) for value in hashes)
    facts = [ImageFacts(content=index, appearance=appearance) for index, appearance in enumerate(appearances)]
    groups, are_alike = group_near(facts)
    assert not are_alike
    assert [[pair, 1000 + pair] for pair in range(100)] == groups[:100]
    assert groups[100:] == [list(range(5000, 9000))]
