import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dhvt.data.decode import decode, decode_rgb, to_upright_rgb
from dhvt.data.levels import ValueRange, WhiteLevels, describe_levels, find_white_levels
from dhvt.data.preprocess import Preprocess, preprocess_image
from dhvt.errors import ConfigError, DataError, ImageError
from tests.conftest import encode

RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16)
OLD = WhiteLevels()


def png_of_16_bits(values):
    """A colour PNG ``(H, W, 3)``, which Pillow reads and does not write."""
    height, width, _ = values.shape

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def grey(values, white=OLD, file_format="TIFF"):
    """The decoded values of an image, of which all channels are the same."""
    pixels = np.asarray(decode_rgb(encode(Image.fromarray(values), file_format), white=white))
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def test_models_that_recorded_nothing_read_as_before():
    assert np.array_equal(grey(RAMP * 257), RAMP)
    assert np.array_equal(grey(RAMP * 16, file_format="PNG"), RAMP >> 4)
    assert np.array_equal(grey(RAMP.astype(np.int32) * 300), np.minimum(RAMP.astype(np.int64) * 300, 65535) >> 8)
    floats = RAMP.astype(np.float32) * 2 - 1
    floats[0, 0] = np.nan
    assert np.array_equal(grey(floats), np.nan_to_num(floats).clip(0, 255).astype(np.uint8))
    assert Preprocess(size=(16, 16)).to_dict().keys() == {"size", "resize_mode", "crop_pct", "interpolation", "mean", "std"}


@pytest.mark.parametrize(("white", "step"), [(65535, 257), (16383, 64), (4095, 16), (1023, 4), (255, 1)])
def test_whole_numbers_of_so_many_bits_are_scaled_to_8(white, step):
    for file_format in ("PNG", "TIFF"):
        assert np.array_equal(grey(RAMP * step, WhiteLevels(white, 1), file_format), RAMP)
    assert np.array_equal(grey(RAMP.astype(np.int32) * step, WhiteLevels(white, 1)), RAMP)
    image = Image.fromarray(RAMP * step)  # as the Python classifier is given one
    assert np.array_equal(np.asarray(to_upright_rgb(image, WhiteLevels(white, 1)))[..., 0], RAMP)


def test_any_other_white_and_floats():
    assert grey(np.array([[0, 1500, 3000]], np.uint16), WhiteLevels(3000, 1)).tolist() == [[0, 128, 255]]
    assert np.array_equal(grey((RAMP / 255).astype(np.float32), WhiteLevels(255, 1)), RAMP)
    assert np.array_equal(grey(RAMP.astype(np.float32), WhiteLevels(255, 255)), RAMP)
    assert grey(np.array([[-0.05, 0.5, 1.08]], np.float32), WhiteLevels(255, 1)).tolist() == [[0, 128, 255]]
    pixels = preprocess_image(
        encode(Image.fromarray(RAMP * 16)), Preprocess(size=(16, 16), integer_white=4095, float_white=255)
    )
    assert np.array_equal(pixels[..., 0], RAMP)


@pytest.mark.parametrize(
    ("values", "white", "message"),
    [
        (np.array([[0, 4096]], np.uint16), 4095, "whole numbers from 0 to 4096, where 0 is black and 4095 is white; scale it"),
        (np.array([[0, 255]], np.uint16), 65535, "whole numbers from 0 to 255, .* so that it would be black throughout"),
        (np.array([[-3, 200]], np.int32), 255, "whole numbers from -3 to 200"),
        (np.array([[0, 255]], np.float32), 1, "floats from 0 to 255, where 0 is black and 1 is white"),
        (np.array([[0, 0.9]], np.float32), 255, r"floats from 0 to 0\.9, .* black throughout"),
        (np.array([[0, np.nan]], np.float32), 1, "floats from nan"),
        (np.array([[0, np.inf]], np.float32), 1, "floats from 0 to inf"),
    ],
)
def test_values_that_do_not_fit_are_refused(values, white, message):
    data = encode(Image.fromarray(values), "TIFF")
    with pytest.raises(ImageError, match=message):
        decode_rgb(data, white=WhiteLevels(white, white))
    assert decode_rgb(data).size == (2, 1)
    black = np.zeros_like(values)
    assert grey(black, WhiteLevels(white, white)).max() == 0


def test_colour_of_16_bits_is_read_by_its_upper_8():
    colours = np.stack([RAMP, RAMP.T, 255 - RAMP], axis=-1) * 257
    data = png_of_16_bits(colours)
    for white in (OLD, WhiteLevels(65535, 1)):
        assert np.array_equal(np.asarray(decode_rgb(data, white=white)), colours >> 8)
    with pytest.raises(ImageError, match="colour of 16 bits is read with white at 65535, here it is 4095"):
        decode_rgb(data, white=WhiteLevels(4095, 1))
    assert decode(data).values() == ValueRange("colour", 0, 65535)
    dim = decode(png_of_16_bits(colours // 16)).values()
    with pytest.raises(DataError, match="colours of 16 bits have values up to 4095 of 65535"):
        find_white_levels([dim])
    assert find_white_levels([dim], 65535).integers == 65535
    assert decode(encode(Image.new("RGB", (2, 2)))).values() is None


@pytest.mark.parametrize(
    ("kind", "highest", "white"),
    [
        *(("integer", *pair) for pair in ((200, 255), (256, 1023), (4090, 4095), (4096, 16383), (65535, 65535))),
        *(("float", *pair) for pair in ((0.7, 1), (1.05, 1), (254.5, 255), (257, 255), (900, 1023), (4095, 4095))),
    ],
)
def test_white_is_found_by_the_largest_value_of_all(kind, highest, white):
    ranges = [ValueRange(kind, 0, highest / 3), ValueRange(kind, 0, highest), ValueRange(kind, np.nan, np.nan)]
    expected = WhiteLevels(white, 255.0) if kind == "integer" else WhiteLevels(65535, white)
    found = find_white_levels(ranges)
    assert found == expected
    what = "whole numbers of 16 or 32 bits" if kind == "integer" else "floats"
    assert (
        describe_levels(ranges[:2], found)
        == f"2 images have {what} up to {highest:g}: white is {white} (--white gives another)"
    )


@pytest.mark.parametrize(
    ("kind", "low", "high"), [("float", 0, 3.7), ("float", -1, 1), ("integer", 0, 70000), ("integer", -5, 200)]
)
def test_values_of_no_usual_range_are_not_guessed(kind, low, high):
    with pytest.raises(DataError, match=f"from {low} to {high}; expected 0 for black, .* with --white, or scale them"):
        find_white_levels([ValueRange(kind, low, high)])
    assert find_white_levels([ValueRange(kind, low, high)], 70000) == WhiteLevels(70000, 70000)


def test_without_such_images_and_with_a_given_white():
    assert find_white_levels([]) == WhiteLevels(65535, 255)
    assert describe_levels([], WhiteLevels(65535, 255)) is None
    assert find_white_levels([], 4095) == WhiteLevels(4095, 4095)
    assert find_white_levels([], 0.5) == WhiteLevels(65535, 0.5)
    with pytest.raises(ConfigError, match="float_white is 0"):
        Preprocess(size=(4, 4), float_white=0)
