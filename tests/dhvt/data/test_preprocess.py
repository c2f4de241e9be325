import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dhvt.data import decode
from dhvt.data.decode import ImageTooLargeError, UnsupportedFormatError, decode_rgb
from dhvt.data.formats import FORMATS
from dhvt.data.preprocess import Preprocess, preprocess_image
from dhvt.errors import ConfigError, ImageError
from tests.conftest import encode

CFG = Preprocess(size=(32, 32))


def gradient(width=64, height=48):
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8))


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_format_is_read(file_format):
    assert len(FORMATS) == 8  # with AVIF and HEIC, of which dev installs the packages
    pixels = preprocess_image(encode(gradient(), file_format), CFG)
    assert (pixels.shape, pixels.dtype) == ((32, 32, 3), np.uint8)
    assert np.abs(pixels.astype(int) - preprocess_image(encode(gradient()), CFG)).mean() < 6


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
    assert np.abs(preprocess_image(data, CFG).astype(int) - np.asarray(full)).max() <= 4


def test_resize_modes():
    image = Image.new("RGB", (90, 30), "black")
    image.paste("white", (30, 0, 60, 30))
    data = encode(image)
    crop = preprocess_image(data, Preprocess(size=(32, 32), resize_mode="crop", interpolation="box"))
    squash = preprocess_image(data, Preprocess(size=(32, 32), resize_mode="squash", interpolation="box"))
    pad = preprocess_image(data, Preprocess(size=(32, 32), resize_mode="pad", interpolation="box"))
    assert crop.min() == 255
    assert (squash[:, 16] == 255).all()
    assert squash[:, 0].max() == 0
    assert pad[0, 0].tolist() == [124, 116, 104]
    assert pad[16, 16].tolist() == [255, 255, 255]


def test_non_square_target_and_crop_pct():
    wide = preprocess_image(encode(gradient(300, 300)), Preprocess(size=(16, 48)))
    assert wide.shape == (16, 48, 3)
    whole = preprocess_image(encode(gradient(64, 64)), Preprocess(size=(32, 32)))
    part = preprocess_image(encode(gradient(64, 64)), Preprocess(size=(32, 32), crop_pct=0.5))
    assert np.ptp(part[..., 0]) == pytest.approx(np.ptp(whole[..., 0]) / 2, abs=8)


def test_a_image_of_the_right_size_is_left_alone():
    image = gradient(32, 32)
    assert np.array_equal(preprocess_image(encode(image), CFG), np.asarray(image))


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (33, 31)])
def test_extreme_shapes(size):
    for mode in ("crop", "squash", "pad"):
        assert preprocess_image(encode(Image.new("RGB", size)), Preprocess(size=(32, 32), resize_mode=mode)).shape == (
            32,
            32,
            3,
        )


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_truncation_is_an_image_error(file_format):
    data = encode(gradient(), file_format)
    for length in {0, 1, 2, 3, 10, 20, 50, len(data) // 4, len(data) // 2}:
        with pytest.raises(ImageError):
            preprocess_image(data[:length], CFG)


def test_what_is_no_image():
    with pytest.raises(ImageError, match="empty"):
        preprocess_image(b"", CFG)
    for data in (b"hello" * 100, b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.4 ", b"%!PS-Adobe-3.0 EPSF-3.0\n"):
        with pytest.raises(UnsupportedFormatError, match="JPEG, PNG, WEBP"):
            preprocess_image(data, CFG)


def test_a_jpeg_of_many_scans_is_refused_before_decoding():
    data = encode(gradient(800, 600), "JPEG", progressive=True)
    last = data[data.rfind(b"\xff\xda") : -2]
    assert np.array_equal(preprocess_image(data[:-2] + 5 * last + data[-2:], CFG), preprocess_image(data, CFG))
    with pytest.raises(ImageTooLargeError, match="in 2010 scans"):
        preprocess_image(data[:-2] + 2000 * last + data[-2:], CFG)
    with pytest.raises(ImageTooLargeError, match="in 18 scans"):
        decode_rgb(data[:-2] + 8 * last + data[-2:], max_pixels=800 * 600)
    phone = encode(gradient(800, 600), "JPEG") + 5000 * b"\xff\xda\0\2"  # a film behind the image
    assert decode_rgb(phone, max_pixels=800 * 600).size == (800, 600)


def test_a_tiff_with_larger_tiles_than_images_is_refused():
    data = bytearray(encode(gradient(16, 16), "TIFF", compression="tiff_adobe_deflate"))
    count = int.from_bytes(data[int.from_bytes(data[4:8], "little") :][:2], "little")
    entries = int.from_bytes(data[4:8], "little") + 2
    for place in range(entries, entries + 12 * count, 12):
        tag = int.from_bytes(data[place : place + 2], "little")
        if tag in (273, 279):  # strips' offsets and lengths become tiles'
            data[place : place + 2] = (tag + 51 if tag == 273 else 325).to_bytes(2, "little")
        elif tag in (278, 284):  # rows per strip, planes: the tile's sides
            data[place : place + 12] = b"".join(
                value.to_bytes(size, "little") for value, size in ((322 if tag == 278 else 323, 2), (4, 2), (1, 4), (16000, 4))
            )
    with pytest.raises(ImageTooLargeError, match="tiles of up to 256,000,000 pixels"):
        preprocess_image(bytes(data), CFG)


def test_an_odd_exif_tag_beside_the_orientation_costs_nothing():
    entries = [(0x112, 3, 1, struct.pack("<HH", 6, 0)), (0x11A, 7, 4, b"abcd")]  # orientation; a resolution without a type
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries))
    exif += b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries) + bytes(4)
    assert decode_rgb(encode(gradient(64, 48), "JPEG", exif=exif)).size == (48, 64)


def test_too_many_pixels_are_refused_before_decoding():
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    small = encode(Image.new("1", (30, 30)), "PNG")
    bomb = small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]
    with pytest.raises(ImageTooLargeError):
        preprocess_image(bomb, CFG)


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_limit_of_pixels_holds_for_every_format(file_format, monkeypatch):
    data = encode(gradient(), file_format)
    assert decode_rgb(data, max_pixels=3072).size == (64, 48)
    monkeypatch.setattr(decode, "_turn_upright", None)  # what would decode
    with pytest.raises(ImageTooLargeError, match="64x48"):
        preprocess_image(data, CFG, max_pixels=3071)


def with_declared_size(data, width, height):
    """An AVIF or HEIC file whose image claims to be of another size than its frames."""
    start = data.index(b"ispe")
    return data[: start + 8] + width.to_bytes(4, "big") + height.to_bytes(4, "big") + data[start + 16 :]


def with_repeated_frames(data, times):
    """An AVIF or HEIC file whose one item has its frame many times."""
    start = data.index(b"mdat") + 4
    head, frame = data[:start], data[start:]
    size = len(frame).to_bytes(4, "big")
    assert head.count(size) == 1
    return head.replace(size, (len(frame) * times).to_bytes(4, "big")) + frame * times


def test_an_avif_of_larger_frames_than_its_image_is_refused():
    data = with_declared_size(encode(gradient(), "AVIF"), 8, 8)
    assert decode_rgb(data).size == (8, 8)
    with pytest.raises(ImageTooLargeError, match=r"the AVIF has frames of up to 3,072 pixels"):
        decode_rgb(data, max_pixels=3071)


@pytest.mark.parametrize("file_format", ["AVIF", "HEIF"])
def test_an_item_of_many_frames_is_refused_before_decoding(file_format):
    data = encode(gradient(), file_format)
    assert decode_rgb(with_repeated_frames(data, 15), max_pixels=3072).size == (64, 48)
    with pytest.raises(ImageTooLargeError, match="of 49,152 together; at most 3,072 and 46,080 are accepted"):
        decode_rgb(with_repeated_frames(data, 16), max_pixels=3072)
    with pytest.raises(ImageTooLargeError, match="more than 65,536 parts"):
        decode_rgb(data + 70_000 * (b"\0\0\0\x08free"))


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
LOSSLESS = {"AVIF": {"quality": 100, "subsampling": "4:4:4"}, "HEIF": {"quality": -1, "chroma": 444}}


@pytest.mark.parametrize("file_format", LOSSLESS)
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_heic_and_avif_are_turned_once(file_format, orientation):
    """Both keep the EXIF orientation, and repeat it in their container, which alone counts."""
    method = {1: None, 3: 3, 6: 2, 7: 6}[orientation]
    stored = gradient() if method is None else gradient().transpose(Image.Transpose(method))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(stored, file_format, exif=exif.tobytes(), **LOSSLESS[file_format])
    assert (orientation == 1) or b"irot" in data or b"imir" in data
    assert np.abs(np.asarray(decode_rgb(data)).astype(int) - np.asarray(gradient())).mean() < 2


@pytest.mark.parametrize("file_format", LOSSLESS)
def test_xmp_does_not_turn_heic_and_avif_again(file_format):
    plain = encode(gradient(), file_format)
    data = encode(gradient(), file_format, xmp=XMP.replace(b"6", b"1"))
    data = data.replace(b'Orientation="1"', b'Orientation="6"')
    assert XMP in data
    assert np.array_equal(np.asarray(decode_rgb(data)), np.asarray(decode_rgb(plain)))


def test_memory_that_is_short_is_no_fault_of_the_image(monkeypatch):
    def fail(*arguments, **options):
        raise MemoryError

    data = encode(gradient(), "PNG")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(MemoryError):
        decode_rgb(data)


def test_a_heic_without_its_package_and_a_damaged_one_are_told_apart(monkeypatch):
    data = encode(gradient(), "HEIF")
    with pytest.raises(ImageError, match="the HEIC image is damaged or truncated") as caught:
        decode_rgb(data[:200])
    assert not isinstance(caught.value, UnsupportedFormatError)
    monkeypatch.setattr(decode, "FORMATS", tuple(name for name in FORMATS if name not in ("HEIF", "AVIF")))
    with pytest.raises(UnsupportedFormatError, match=r"a HEIC image, .*: pip install 'dhvt-serve\[heif\]'"):
        decode_rgb(data)
    with pytest.raises(UnsupportedFormatError, match="an AVIF image, without which Pillow was built"):
        decode_rgb(encode(gradient(), "AVIF"))


def test_configuration_is_checked():
    with pytest.raises(ConfigError, match="resize_mode"):
        Preprocess(size=(32, 32), resize_mode="stretch")
    with pytest.raises(ConfigError, match="crop_pct"):
        Preprocess(size=(32, 32), crop_pct=0)
    with pytest.raises(ConfigError, match="size"):
        Preprocess(size=(32, 0))
