import numpy as np
import pytest
from PIL import Image

from dhvt.config import Preprocess
from dhvt.errors import ConfigError, ImageError
from dhvt.preprocess import ImageTooLargeError, UnsupportedFormatError, decode_rgb, preprocess
from tests.conftest import encode

CFG = Preprocess(size=(32, 32))


def gradient(width=64, height=48):
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_every_format_is_read(file_format):
    pixels = preprocess(encode(gradient(), file_format), CFG)
    assert (pixels.shape, pixels.dtype) == ((32, 32, 3), np.uint8)
    assert np.abs(pixels.astype(int) - preprocess(encode(gradient()), CFG)).mean() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    inverse = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    upright = gradient()
    stored = upright if inverse is None else upright.transpose(Image.Transpose(inverse))
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode_rgb(encode(stored, "PNG", exif=exif))
    assert decoded.size == upright.size
    assert np.array_equal(np.asarray(decoded), np.asarray(upright))


def test_modes_become_rgb_on_purpose():
    grey = gradient().convert("L")
    assert np.array_equal(np.asarray(decode_rgb(encode(grey))), np.asarray(grey.convert("RGB")))
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    for file_format in ("PNG", "TIFF"):
        assert np.array_equal(np.asarray(decode_rgb(encode(deep, file_format))), np.asarray(grey.convert("RGB")))
    clear = gradient().convert("RGBA")
    clear.putalpha(0)
    assert np.asarray(decode_rgb(encode(clear))).min() == 255
    keyed = Image.new("RGB", (4, 4), (255, 0, 0))
    assert decode_rgb(encode(keyed, transparency=(255, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    palette = gradient().quantize(16)
    assert np.array_equal(np.asarray(decode_rgb(encode(palette))), np.asarray(palette.convert("RGB")))
    cmyk = decode_rgb(encode(gradient().convert("CMYK"), "JPEG", quality=95))
    assert np.abs(np.asarray(cmyk).astype(int) - np.asarray(gradient())).mean() < 6


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_rgb(data).getpixel((5, 5)) == (255, 0, 0)


def test_draft_decoding_of_a_large_jpeg_is_close_to_full():
    data = encode(gradient(1600, 1200), "JPEG", quality=95)
    assert decode_rgb(data, at_least=(32, 32)).size == (200, 150)
    full = decode_rgb(data).resize((32, 32), Image.Resampling.BICUBIC, box=(200, 0, 1400, 1200))
    assert np.abs(preprocess(data, CFG).astype(int) - np.asarray(full)).max() <= 4


def test_resize_modes():
    image = Image.new("RGB", (90, 30), "black")
    image.paste("white", (30, 0, 60, 30))
    data = encode(image)
    crop = preprocess(data, Preprocess(size=(32, 32), resize_mode="crop", interpolation="box"))
    squash = preprocess(data, Preprocess(size=(32, 32), resize_mode="squash", interpolation="box"))
    pad = preprocess(data, Preprocess(size=(32, 32), resize_mode="pad", interpolation="box"))
    assert crop.min() == 255
    assert (squash[:, 16] == 255).all()
    assert squash[:, 0].max() == 0
    assert pad[0, 0].tolist() == [124, 116, 104]
    assert pad[16, 16].tolist() == [255, 255, 255]


def test_non_square_target_and_crop_pct():
    wide = preprocess(encode(gradient(300, 300)), Preprocess(size=(16, 48)))
    assert wide.shape == (16, 48, 3)
    whole = preprocess(encode(gradient(64, 64)), Preprocess(size=(32, 32)))
    part = preprocess(encode(gradient(64, 64)), Preprocess(size=(32, 32), crop_pct=0.5))
    assert np.ptp(part[..., 0]) == pytest.approx(np.ptp(whole[..., 0]) / 2, abs=8)


def test_a_picture_of_the_right_size_is_left_alone():
    image = gradient(32, 32)
    assert np.array_equal(preprocess(encode(image), CFG), np.asarray(image))


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (33, 31)])
def test_extreme_shapes(size):
    for mode in ("crop", "squash", "pad"):
        assert preprocess(encode(Image.new("RGB", size)), Preprocess(size=(32, 32), resize_mode=mode)).shape == (32, 32, 3)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_truncation_is_an_image_error(file_format):
    data = encode(gradient(), file_format)
    for length in {0, 1, 2, 3, 10, 20, 50, len(data) // 4, len(data) // 2}:
        with pytest.raises(ImageError):
            preprocess(data[:length], CFG)


def test_what_is_no_picture():
    with pytest.raises(ImageError, match="empty"):
        preprocess(b"", CFG)
    for data in (b"hello" * 100, b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.4 ", b"%!PS-Adobe-3.0 EPSF-3.0\n"):
        with pytest.raises(UnsupportedFormatError, match="JPEG, PNG, WEBP"):
            preprocess(data, CFG)


def test_too_many_pixels_are_refused_before_decoding():
    bomb = encode(Image.new("1", (30_000, 30_000)), "PNG")
    with pytest.raises(ImageTooLargeError):
        preprocess(bomb, CFG)
    with pytest.raises(ImageTooLargeError, match="64x48"):
        preprocess(encode(gradient()), CFG, max_pixels=3071)


def test_configuration_is_checked():
    with pytest.raises(ConfigError, match="resize_mode"):
        Preprocess(size=(32, 32), resize_mode="stretch")
    with pytest.raises(ConfigError, match="crop_pct"):
        Preprocess(size=(32, 32), crop_pct=0)
    with pytest.raises(ConfigError, match="size"):
        Preprocess(size=(32, 0))
