"""Images as base64 in JSON, to a real server."""

import base64

import httpx
import pytest

from tests.conftest import draw, encode

IMAGES = [encode(draw(seed % 3, seed)) for seed in range(3)]


def text(data):
    return base64.b64encode(data).decode()


@pytest.fixture(scope="module")
def expected(server):
    """The predictions for each image as a form's file."""
    return [httpx.post(f"{server}/classify", files={"image": data}).json()["predictions"] for data in IMAGES]


def assert_same(predictions, expected):
    assert [entry["label"] for entry in predictions] == [entry["label"] for entry in expected]
    assert [entry["score"] for entry in predictions] == pytest.approx([entry["score"] for entry in expected], abs=2e-2)


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,", "data:image/svg+xml;base64,"])
def test_an_image_as_base64(server, expected, prefix):
    response = httpx.post(f"{server}/classify", json={"image": prefix + text(IMAGES[0])})
    assert response.status_code == 200, response.text
    assert_same(response.json()["predictions"], expected[0])


def test_escaped_slashes_and_top_k(server, expected):
    body = '{"top_k": 2, "image": "' + text(IMAGES[1]).replace("/", "\\/") + '"}'
    headers = {"Content-Type": "application/json; charset=utf-8"}
    response = httpx.post(f"{server}/classify", content=body, headers=headers)
    assert_same(response.json()["predictions"], expected[1][:2])
    over = httpx.post(f"{server}/classify?top_k=1", content=body, headers=headers)
    assert len(over.json()["predictions"]) == 1


def test_many_images_with_one_that_is_broken(server, expected):
    images = [text(data) for data in IMAGES]
    images.insert(1, "cat.jpg")
    images.insert(2, text(b"hello"))
    response = httpx.post(f"{server}/classify/batch", json={"images": images, "top_k": 2})
    results = response.json()["results"]
    assert [result["name"] for result in results] == ["0", "1", "2", "3", "4"]
    assert [results[place]["error"]["code"] for place in (1, 2)] == ["bad_request", "unsupported_media_type"]
    for result, predictions in zip([results[0], *results[3:]], expected, strict=True):
        assert_same(result["predictions"], predictions[:2])
    lines = httpx.post(f"{server}/classify/batch", json={"images": images}, headers={"Accept": "application/x-ndjson"})
    assert len(lines.text.splitlines()) == 5


@pytest.mark.parametrize(
    ("body", "status", "code", "message"),
    [
        (b"", 400, "bad_request", "not JSON"),
        (b"{", 400, "bad_request", "not JSON"),
        (b"\xff\xfe", 400, "bad_request", "not JSON"),
        (b"[" * 100_000, 400, "bad_request", "more values"),
        (b'{"image":[[],[],[]]}', 400, "bad_request", "more values"),
        (b'"image"', 400, "bad_request", "no 'image'"),
        ({"img": text(IMAGES[0])}, 400, "bad_request", "no 'image'"),
        ({"image": 5}, 400, "bad_request", "int"),
        ({"image": None}, 400, "bad_request", "NoneType"),
        ({"image": text(IMAGES[0]), "topk": 3}, 400, "bad_request", "'topk'"),
        ({"image": text(IMAGES[0]), "top_k": 0}, 400, "bad_request", "top_k"),
        ({"image": text(IMAGES[0]), "top_k": True}, 400, "bad_request", "top_k"),
        ({"image": text(IMAGES[0]), "top_k": "3"}, 400, "bad_request", "top_k"),
        ({"image": text(IMAGES[0])[:-1]}, 400, "bad_request", "base64"),
        ({"image": text(IMAGES[0]) + "\n"}, 400, "bad_request", "base64"),
        ({"image": "ä" * 8}, 400, "bad_request", "base64"),
        ({"image": "file:///etc/passwd"}, 400, "bad_request", "never fetches"),
        ({"image": "data:text/plain;base64,aGVsbG8="}, 400, "bad_request", "never fetches"),
        ({"image": ""}, 400, "invalid_image", "empty"),
        ({"image": "data:image/png;base64,"}, 400, "invalid_image", "empty"),
        ({"image": text(b"hello")}, 415, "unsupported_media_type", "JPEG, PNG"),
        ({"image": text(IMAGES[0][:100])}, 400, "invalid_image", "truncated"),
        ({"image": text(b"\0" * 20_000_001)}, 413, "too_large", "20,000,000"),
        ({"image": "A" * 30_100_000}, 413, "too_large", "20,000,000"),
    ],
)
def test_bad_bodies_get_a_clear_error(server, body, status, code, message):
    content = {"content": body, "headers": {"Content-Type": "application/json"}} if isinstance(body, bytes) else {"json": body}
    response = httpx.post(f"{server}/classify", timeout=30, **content)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code), response.text
    assert message in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"image": text(IMAGES[0])}, 400, "no 'images'"),
        ({"images": text(IMAGES[0])}, 400, "a list"),
        ({"images": []}, 400, "at least one"),
        ({"images": [text(IMAGES[0]), None]}, 400, "image 1 is NoneType"),
        ({"images": [{"image": "x"}]}, 400, "more values"),
        ({"images": [""] * 10_001}, 413, "10,000"),
        ({"images": ["AAAA"], "top_k": -1}, 400, "top_k"),
        ({"images": ["A" * 31_000_000]}, 413, "30,010,000"),
    ],
)
def test_bad_bodies_of_many_images(server, body, status, message):
    response = httpx.post(f"{server}/classify/batch", json=body, timeout=30)
    assert response.status_code == status, response.text
    assert message in response.json()["error"]["message"]


def test_json_is_in_the_openapi_document(server):
    paths = httpx.get(f"{server}/docs.json").json()["paths"]
    for path, field in (("/classify", "image"), ("/classify/batch", "images")):
        schema = paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert schema["required"] == [field]
