"""Requests of the Open Inference Protocol that would cost much work or memory are refused early."""

import base64
import json
import struct
import tracemalloc

import pytest

from serving.errors import BadRequest
from serving.settings import Settings
from serving.uploads.tensors import read_infer_request

SIZE = (4, 4)
NUMBERS = 4 * 4 * 3


def body(name="images", datatype="UINT8", shape=(1, 4, 4, 3), **more):
    return {"inputs": [{"name": name, "datatype": datatype, "shape": list(shape), **more}]}


def read(request, binary=b""):
    head = json.dumps(request).encode()
    return read_infer_request(head + binary, str(len(head)).encode(), SIZE, Settings(max_batch_size=4))


def test_pixels_in_json_are_read_flat_and_nested():
    nested = [[[[row, column, 255] for column in range(4)] for row in range(4)]]
    (deep,) = read(body(data=nested)).images
    (flat,) = read(body(data=deep.ravel().tolist())).images
    assert deep.tolist() == flat.tolist() == nested[0]
    assert deep.dtype == "uint8"


def test_one_long_string_among_numbers_takes_no_memory():
    request = body(data=["a" * 100_000] + [1] * (NUMBERS - 1))
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest, match="0 to 255"):
            read(request)
        assert tracemalloc.get_traced_memory()[1] < 3_000_000  # as strings of numpy it would be 19 MB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("value", [True, 1.0, "1", None, -1, 256, 10**30, [1]])
def test_a_pixel_is_a_whole_number_of_a_byte(value):
    with pytest.raises(BadRequest, match="0 to 255"):
        read(body(data=[value] + [1] * (NUMBERS - 1)))


def test_images_are_counted_before_they_are_decoded(monkeypatch):
    monkeypatch.setattr("serving.uploads.tensors.decode_base64", lambda *arguments: pytest.fail("it was decoded"))
    data = [base64.b64encode(b"image").decode()] * 3
    with pytest.raises(BadRequest, match="tells of 2 images, and its data has 3"):
        read(body("image", "BYTES", [2], data=data))


def test_binary_data_is_not_read_beyond_the_images_that_were_declared():
    binary = (struct.pack("<I", 1) + b"x") * 2
    request = body("image", "BYTES", [2], parameters={"binary_data_size": len(binary)})
    assert read(request, binary).images == [b"x", b"x"]
    request = body("image", "BYTES", [2], parameters={"binary_data_size": len(binary) + 2})
    with pytest.raises(BadRequest, match="tells of 2 images, and its data has more"):
        read(request, binary + b"\x01\x00")


@pytest.mark.parametrize("data", [[1] * 20_000, [[]] * 20_000])
def test_json_with_more_values_than_any_request_needs_is_not_parsed(data, monkeypatch):
    request = json.dumps(body(data=data)).encode()
    monkeypatch.setattr("serving.uploads.tensors.json.loads", lambda *arguments: pytest.fail("it was parsed"))
    with pytest.raises(BadRequest, match="more than 10,192 values"):
        read_infer_request(request, None, SIZE, Settings(max_batch_size=4))


def test_pixels_of_several_images_in_json_are_few(monkeypatch):
    size = (250, 300)
    numbers = 250 * 300 * 3  # one image alone has more than several may have together

    def ask(count):
        request = json.dumps(body(shape=[count, *size, 3], data=[1] * (count * numbers))).encode()
        return read_infer_request(request, None, size, Settings(max_batch_size=4)).images

    assert len(ask(1)) == 1
    monkeypatch.setattr("serving.uploads.tensors.json.loads", lambda *arguments: pytest.fail("it was parsed"))
    with pytest.raises(BadRequest, match=r"more than 235,000 values; send fewer images, or pixels as binary data"):
        ask(2)
