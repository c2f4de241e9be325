"""The Open Inference Protocol, asked by NVIDIA's client and by hand, of a real server."""

import base64
import json

import httpx
import numpy as np
import pytest

from dhvt.artifact import load_artifact
from dhvt.data.preprocess import preprocess_image
from dhvt.engines import open_engine
from tests.conftest import CLASSES, draw, encode
from tests.serving.conftest import serving

IMAGES = [encode(draw(seed % 3, seed)) for seed in range(5)]


@pytest.fixture(scope="module")
def expected(server):
    """The scores by class of each image, from ``/classify``."""
    answers = [httpx.post(f"{server}/classify", files={"image": data}).json()["predictions"] for data in IMAGES]
    return [{entry["label"]: entry["score"] for entry in answer} for answer in answers]


@pytest.fixture(scope="module")
def card(artifact_path):
    return load_artifact(artifact_path).card


@pytest.fixture(scope="module")
def pixels(card):
    return np.stack([preprocess_image(data, card.preprocess) for data in IMAGES])


@pytest.fixture(scope="module")
def triton():
    return pytest.importorskip("tritonclient.http", reason="needs pip install 'tritonclient[http]'")


@pytest.fixture(scope="module")
def client(triton, server):
    with triton.InferenceServerClient(server.removeprefix("http://"), network_timeout=60) as client:
        yield client


def assert_ranked(labels, scores, expected):
    """Each row has the best classes, best first."""
    assert labels.shape == scores.shape
    for row_labels, row_scores, by_class in zip(labels, scores, expected, strict=True):
        names = [name.decode() if isinstance(name, bytes) else name for name in row_labels]
        assert names == sorted(by_class, key=by_class.get, reverse=True)[: len(names)]
        assert row_scores == pytest.approx([by_class[name] for name in names], abs=2e-2)


def test_the_client_finds_server_and_model(client, card, server):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(card.name)
    assert client.is_model_ready(card.name, card.version)
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    metadata = client.get_model_metadata(card.name)
    assert (metadata["name"], metadata["versions"]) == (card.name, [card.version])
    assert {entry["name"]: entry["shape"] for entry in metadata["inputs"]} == {"image": [-1], "images": [-1, 32, 32, 3]}
    assert [entry["datatype"] for entry in metadata["outputs"]] == ["BYTES", "FP32", "FP32"]


@pytest.mark.parametrize("is_binary", [True, False])
def test_encoded_images(triton, client, card, expected, is_binary):
    data = np.array(IMAGES if is_binary else [base64.b64encode(image) for image in IMAGES], np.object_)
    image = triton.InferInput("image", [len(IMAGES)], "BYTES").set_data_from_numpy(data, binary_data=is_binary)
    result = client.infer(card.name, [image], model_version=card.version, request_id="mine", parameters={"top_k": 2})
    assert (result.get_response()["id"], result.get_response()["model_version"]) == ("mine", card.version)
    assert result.as_numpy("label").shape == (5, 2)
    assert_ranked(result.as_numpy("label"), result.as_numpy("score"), expected)
    assert result.as_numpy("logits") is None


@pytest.mark.parametrize("is_binary", [True, False])
def test_images_that_are_resized_already(triton, client, card, expected, pixels, artifact_path, is_binary):
    images = triton.InferInput("images", list(pixels.shape), "UINT8").set_data_from_numpy(pixels, binary_data=is_binary)
    outputs = [triton.InferRequestedOutput(name, binary_data=is_binary) for name in ("logits", "score", "label")]
    result = client.infer(card.name, [images], outputs=outputs)
    assert_ranked(result.as_numpy("label"), result.as_numpy("score"), expected)
    logits = open_engine(load_artifact(artifact_path), threads=1).engine.predict(pixels)
    assert result.as_numpy("logits") == pytest.approx(logits, abs=0.2)


def test_the_clients_errors_are_ours(triton, client, card):
    image = triton.InferInput("image", [2], "BYTES").set_data_from_numpy(np.array([IMAGES[0], b"x"], np.object_))
    with pytest.raises(triton.InferenceServerException, match="unsupported_media_type: image 1: "):
        client.infer(card.name, [image])
    with pytest.raises(triton.InferenceServerException, match=f"not_found.*serves '{card.name}'"):
        client.infer("other", [image])


def ask(server, card, body, **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(f"{server}/v2/models/{card.name}/infer", content=content, headers=headers, timeout=30)


def tensor(**changes):
    return {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(IMAGES[0]).decode()]} | changes


def pixel_tensor(**changes):
    return {"name": "images", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": [7] * 3072} | changes


def test_json_alone(server, card, expected):
    response = ask(server, card, {"inputs": [tensor()]})
    assert response.headers["X-Model-Digest"] == httpx.get(f"{server}/info").json()["digest"]
    answer = response.json()
    assert answer.keys() == {"model_name", "model_version", "outputs"}
    label, score = answer["outputs"]
    assert (label["name"], label["datatype"], label["shape"]) == ("label", "BYTES", [1, 3])
    assert_ranked(np.array([label["data"]]), np.array([score["data"]]), expected[:1])
    nested = np.full((1, 32, 32, 3), 7).tolist()
    flat, deep = (ask(server, card, {"inputs": [pixel_tensor(data=data)]}).json() for data in ([7] * 3072, nested))
    assert flat == deep


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "not JSON"),
        (b"[]", "JSON object"),
        (b'{"inputs":' + b"[" * 100_000, "not JSON"),
        (b"{" * 1000, "more than 100 objects"),
        ({}, "a list of one tensor"),
        ({"inputs": [tensor(), tensor()]}, "a list of one tensor"),
        ({"inputs": [tensor(name="img")]}, "must be ('image', 'BYTES')"),
        ({"inputs": [tensor(datatype="FP32")]}, "must be ('image', 'BYTES')"),
        ({"inputs": [tensor(shape=[2])]}, "2 images"),
        ({"inputs": [tensor(shape=[1, 2])]}, "[N, 1]"),
        ({"inputs": [tensor(shape=[0])]}, "shape"),
        ({"inputs": [tensor(shape=[True])]}, "shape"),
        ({"inputs": [tensor(shape=[33])]}, "at most 32"),
        ({"inputs": [tensor(data=None)]}, "no data"),
        ({"inputs": [tensor(data=["http://localhost/cat.jpg"])]}, "never fetches"),
        ({"inputs": [tensor(data=[5])]}, "int"),
        ({"inputs": [tensor(parameters={"binary_data_size": 5})]}, "0 bytes follow"),
        ({"inputs": [pixel_tensor(shape=[1, 3, 32, 32])]}, "'N', 32, 32, 3"),
        ({"inputs": [pixel_tensor(data=[7] * 3071)]}, "3,072"),
        ({"inputs": [pixel_tensor(data=[256] * 3072)]}, "0 to 255"),
        ({"inputs": [pixel_tensor(data=[0.5] * 3072)]}, "0 to 255"),
        ({"inputs": [pixel_tensor(data=[[1], [1, 2]])]}, "3,072"),
        ({"inputs": [pixel_tensor(data=[10**30] * 3072)]}, "0 to 255"),
        ({"inputs": [tensor()], "outputs": [{"name": "probs"}]}, "no output 'probs'"),
        ({"inputs": [tensor()], "outputs": "label"}, "a list"),
        ({"inputs": [tensor()], "parameters": {"top_k": 0}}, "top_k"),
        ({"inputs": [tensor()], "parameters": {"top_k": "2"}}, "top_k"),
        ({"inputs": [tensor()], "id": 5}, "id must"),
    ],
)
def test_bad_requests_get_an_error_of_the_protocol(server, card, body, text):
    response = ask(server, card, body)
    assert response.status_code == 400, response.text
    assert response.json().keys() == {"error"}
    assert text in response.json()["error"]


def test_an_option_that_an_answer_cannot_carry_is_refused(server, card):
    body = {"inputs": [tensor()]}
    response = httpx.post(f"{server}/v2/models/{card.name}/infer?coverage=0.9", json=body)
    assert (response.status_code, response.json()) == (400, {"error": "bad_request: no parameter 'coverage'; there are top_k"})


@pytest.mark.parametrize(
    ("length", "data", "text"),
    [
        ("999", b"", "at most"),
        ("x", b"", "at most"),
        (None, b"\xff\xff\xff\x7fabc", "fewer follow"),
        (None, b"\x01\x00", "within an element"),
        (None, b"", "has 0"),
    ],
)
def test_bad_binary_data(server, card, length, data, text):
    entry = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [entry]}).encode()
    headers = {"Inference-Header-Content-Length": length or str(len(head))}
    response = ask(server, card, head + data, **headers)
    assert response.status_code == 400, response.text
    assert text in response.json()["error"]


def test_other_refusals(server, card):
    url = f"{server}/v2/models/{card.name}"
    for method, address, status in (
        ("GET", f"{server}/v2/models/nope", 404),
        ("GET", f"{url}/versions/0.0.0-none", 404),
        ("GET", f"{url}/nope", 404),
        ("GET", f"{url}/infer", 405),
        ("POST", f"{server}/v2", 405),
    ):
        response = httpx.request(method, address)
        assert (response.status_code, type(response.json()["error"])) == (status, str), address
    assert ask(server, card, b"x", **{"Content-Encoding": "gzip"}).status_code == 415
    assert ask(server, card, b"x" * 31_000_000).status_code == 413


def test_metrics_have_one_label_for_all_names_and_versions(server, card):
    for name in ("made-up-1", "made-up-2", card.name):
        httpx.get(f"{server}/v2/models/{name}")
        httpx.get(f"{server}/v2/models/{name}/versions/made-up-3")
    text = httpx.get(f"{server}/metrics").text
    assert 'dhvt_requests_total{route="/v2/models/{name}",status="404"}' in text
    assert 'dhvt_requests_total{route="/v2/models/{name}",status="200"}' in text
    assert "made-up" not in text


def test_the_protocol_has_the_same_lock(artifact_path, card, tmp_path):
    with serving(tmp_path / "log", DHVT_MODEL=str(artifact_path), DHVT_TOKEN="secret") as url:
        for path in ("health/live", "health/ready"):
            assert httpx.get(f"{url}/v2/{path}").status_code == 200
        for path in ("", f"/models/{card.name}", f"/models/{card.name}/ready"):
            refused = httpx.get(f"{url}/v2{path}")
            assert (refused.status_code, refused.json()["error"][:12]) == (401, "unauthorized")
        headers = {"Authorization": "Bearer secret"}
        assert ask(url, card, {"inputs": [tensor()]}, **headers).status_code == 200
        assert set(CLASSES) == set(ask(url, card, {"inputs": [tensor()]}, **headers).json()["outputs"][0]["data"])
