"""``POST /explain`` of a real server."""

import base64
import io
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image

from dhvt import Classifier
from tests.conftest import CLASSES
from tests.serving.conftest import PNG, classify, serving


def explain(url, query="", **options):
    return httpx.post(f"{url}/explain{query}", **{"files": {"image": PNG}, "timeout": 60} | options)


def test_the_likeliest_class_is_explained_as_in_python(server, artifact_path):
    response = explain(server, "?masks=24")
    assert response.status_code == 200, response.text
    answer, predictions = response.json(), classify(server).json()["predictions"]
    assert (answer["label"], answer["masks"], answer["size"]) == (predictions[0]["label"], 24, [32, 32])
    assert answer["score"] == pytest.approx(predictions[0]["score"], abs=1e-3)
    found = Classifier.load(artifact_path, "openvino:fp32", threads=1).explain(PNG, masks=24)
    assert np.allclose(answer["maps"][0]["values"], found.maps[0].values, atol=2e-3)
    assert response.headers["X-Model-Digest"] == classify(server).headers["X-Model-Digest"]


def test_the_attention_of_a_layer(server):
    answer = explain(server, "?method=head-tokens&layer=1").json()
    assert [each["name"] for each in answer["maps"]][1:5] == [f"head token {number}" for number in range(1, 5)]
    assert (answer["layer"], np.shape(answer["maps"][0]["values"])) == (1, (8, 8))
    body = {"image": base64.b64encode(PNG).decode()}
    rollout = explain(server, "?method=rollout", files=None, json=body).json()
    assert ([each["name"] for each in rollout["maps"]], rollout["layer"]) == (["rollout"], 2)


def test_a_client_that_accepts_png_gets_a_picture(server):
    response = explain(server, "?masks=8&label=square", headers={"Accept": "image/png"})
    assert (response.status_code, response.headers["content-type"]) == (200, "image/png")
    assert Image.open(io.BytesIO(response.content)).format == "PNG"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?label=cat", f"label is 'cat'; the model's classes are {', '.join(CLASSES)}"),
        ("?label=", "label is ''"),
        ("?method=gradcam", "choose one of masking, head-tokens, rollout"),
        ("?method=rollout&layer=3", "layer is 3; the model has 2"),
        ("?layer=1", "masking takes none"),
        ("?masks=0", "masks is '0'; it must be a whole number of at least 1"),
        ("?masks=1", "masks is 1; method masking takes at least 2"),
        ("?masks=1001", "masks is 1001; this server's DHVT_EXPLAIN_MASKS allows 1000"),
        ("?masks=2&masks=3", "masks is given 2 times; give it once"),
        ("?mask=2", "no parameter 'mask'; there are label, method, layer, masks"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_one_sentence(server, query, message):
    response = explain(server, query)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "bad_request")
    assert message in response.json()["error"]["message"]
    assert "\n" not in response.json()["error"]["message"]


def test_an_image_that_cannot_be_read(server):
    response = explain(server, files={"image": PNG[:100]})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_image")


def test_images_are_classified_while_others_are_explained(server):
    """Explanations wait for each other, not images for explanations; what they classify is not counted."""

    def count():
        lines = httpx.get(f"{server}/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("dhvt_images_total{"))

    before = count()
    with ThreadPoolExecutor(4) as pool:
        explained = [pool.submit(explain, server, "?masks=200") for _ in range(3)]
        classified = [classify(server).status_code for _ in range(5)]
        answers = [future.result().json() for future in explained]
    assert classified == [200] * 5
    assert answers[0] == answers[1] == answers[2]  # the seed is the same
    assert count() - before == 5


def test_it_can_be_turned_off(artifact_path, tmp_path):
    with serving(tmp_path / "log", DHVT_MODEL=str(artifact_path), DHVT_EXPLAIN_MASKS="0") as url:
        response = explain(url)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
        assert "DHVT_EXPLAIN_MASKS is 0" in response.json()["error"]["message"]
        assert httpx.get(f"{url}/info").json()["explanations"] == []


def test_the_model_says_what_it_can_explain(server):
    info = httpx.get(f"{server}/info").json()
    assert info["explanations"] == ["masking", "head-tokens", "rollout"]
    assert info["limits"]["explain_masks"] == 1000
