"""Colours and overlays."""

import numpy as np
from PIL import Image

from dhvt.explanation.colors import colorize
from dhvt.explanation.drawing import enlarge, normalize, overlay, panel


def test_the_colours_get_lighter_with_the_value():
    colors = colorize(np.linspace(0, 1, 101))
    luminance = colors @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > 0).all()
    assert colors[0].tolist() == [0x44, 0x01, 0x54]
    assert colors[-1].tolist() == [0xFD, 0xE7, 0x25]
    assert np.array_equal(colorize(np.array([-1.0, 2.0])), colors[[0, -1]])


def test_values_are_normalized():
    values = np.array([[-1.0, 0.0], [1.0, 2.0]], np.float32)
    assert normalize(values, from_zero=True).tolist() == [[0, 0], [0.5, 1]]
    assert normalize(values, from_zero=False)[0, 0] == 0
    assert not normalize(-np.ones((2, 2), np.float32), from_zero=True).any()
    assert not normalize(np.ones((2, 2), np.float32), from_zero=False).any()


def test_the_overlay_is_lightest_where_the_map_is_largest():
    shares = np.zeros((8, 8), np.float32)
    shares[1, 6] = 1
    image = np.asarray(overlay(np.full((32, 48, 3), 128, np.uint8), shares).convert("L"))
    assert image.shape == (149, 224)
    row, column = np.unravel_index(image.argmax(), image.shape)
    assert (abs(row - 149 * 1.5 / 8) < 10, abs(column - 224 * 6.5 / 8) < 10) == (True, True)


def test_a_large_image_keeps_its_size():
    assert enlarge(np.zeros((300, 200, 3), np.uint8)).size == (200, 300)


def test_a_panel_has_at_most_four_images_in_a_row():
    tile = Image.new("RGB", (224, 224), "red")
    sheets = [panel("title", [(tile, "a\nb")] * count) for count in (2, 4, 5)]
    assert sheets[0].width < sheets[1].width == sheets[2].width
    assert sheets[0].height == sheets[1].height < sheets[2].height
    red = (np.asarray(sheets[2]) == [255, 0, 0]).all(axis=2)
    assert red.sum() == 5 * 224 * 224
