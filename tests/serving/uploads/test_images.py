"""Images of every kind that people have, and what cannot be one, sent to a real server."""

import httpx
import numpy as np
import pytest
from PIL import Image

from dhvt.data.formats import FORMATS
from tests.conftest import draw, encode

UPRIGHT = draw(2, 9, (60, 40))
GREY = UPRIGHT.convert("L")
T = Image.Transpose
# What a camera held like that would store: EXIF 2.32, section 4.6.4, tag 274.
STORED = {1: None, 2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM,
          5: T.TRANSPOSE, 6: T.ROTATE_90, 7: T.TRANSVERSE, 8: T.ROTATE_270}  # fmt: skip


def classify(server, data):
    return httpx.post(f"{server}/classify", content=data, headers={"Content-Type": "image/x"}, timeout=30)


def scores(server, data):
    response = classify(server, data)
    assert response.status_code == 200, response.text
    return {entry["label"]: entry["score"] for entry in response.json()["predictions"]}


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
def test_all_eight_orientations(server, orientation, file_format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    method = STORED[orientation]
    stored = UPRIGHT if method is None else UPRIGHT.transpose(method)
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encode(stored, file_format, exif=exif, **options)
    assert scores(server, data) == pytest.approx(scores(server, encode(UPRIGHT)), abs=2e-2)


def palette():
    return UPRIGHT.quantize(64).convert("RGB").quantize(64)


def with_alpha(image):
    image.putalpha(255)
    return image


def in_16_bits():
    return Image.fromarray(np.asarray(GREY).astype(np.uint16) << 8)


def animation(file_format, **options):
    return encode(UPRIGHT, file_format, save_all=True, append_images=[draw(0, 1, (60, 40))], **options)


@pytest.mark.parametrize(
    ("data", "same_as"),
    [
        pytest.param(encode(in_16_bits()), encode(GREY), id="16 bits"),
        pytest.param(encode(GREY), encode(GREY.convert("RGB")), id="grey"),
        pytest.param(encode(with_alpha(GREY.copy())), encode(GREY), id="grey with alpha"),
        pytest.param(encode(with_alpha(UPRIGHT.copy())), encode(UPRIGHT), id="alpha"),
        pytest.param(
            encode(Image.new("RGBA", (40, 60), (9, 9, 9, 0))), encode(Image.new("RGB", (40, 60), "white")), id="clear"
        ),
        pytest.param(encode(palette()), encode(palette().convert("RGB")), id="palette"),
        pytest.param(
            encode(Image.new("P", (40, 60)), transparency=0), encode(Image.new("RGB", (40, 60), "white")), id="clear palette"
        ),
        pytest.param(encode(UPRIGHT, "JPEG", progressive=True), encode(UPRIGHT, "JPEG"), id="progressive"),
        pytest.param(encode(UPRIGHT, "AVIF", quality=100, subsampling="4:4:4"), encode(UPRIGHT), id="AVIF"),
        pytest.param(encode(UPRIGHT, "HEIF", quality=-1, chroma=444), encode(UPRIGHT), id="HEIC"),
        pytest.param(encode(Image.new("CMYK", (40, 60)), "JPEG"), encode(Image.new("RGB", (40, 60), "white")), id="CMYK"),
        pytest.param(animation("PNG"), encode(UPRIGHT), id="animated PNG"),
        pytest.param(animation("WEBP", lossless=True), encode(UPRIGHT), id="animated WebP"),
        pytest.param(animation("GIF"), encode(UPRIGHT, "GIF"), id="animated GIF"),
        pytest.param(animation("TIFF"), encode(UPRIGHT), id="TIFF of two pages"),
        pytest.param(encode(Image.new("RGB", (1, 100_000), "red")), encode(Image.new("RGB", (9, 9), "red")), id="tall"),
        pytest.param(encode(Image.new("RGB", (100_000, 1), "red")), encode(Image.new("RGB", (9, 9), "red")), id="wide"),
        pytest.param(encode(Image.new("RGB", (1, 1), "red")), encode(Image.new("RGB", (9, 9), "red")), id="one pixel"),
    ],
)
def test_every_kind_is_answered_as_its_plain_twin(server, data, same_as):
    assert scores(server, data) == pytest.approx(scores(server, same_as), abs=2e-2)


@pytest.mark.parametrize("file_format", FORMATS)
def test_cut_and_damaged_files_are_the_senders_fault(server, file_format):
    data = encode(UPRIGHT, file_format)
    rng = np.random.default_rng(0)
    damaged = [data[:length] for length in range(0, len(data), len(data) // 20)]
    for _ in range(40):
        bytes_ = np.frombuffer(data, np.uint8).copy()
        bytes_[rng.integers(0, min(len(data), 200), 3)] = rng.integers(0, 256, 3)
        damaged.append(bytes_.tobytes())
    assert {classify(server, image).status_code for image in damaged} <= {200, 400, 413, 415}
