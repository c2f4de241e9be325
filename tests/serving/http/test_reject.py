"""``?reject=`` of a real server, with a model that has reference images, and with one that has too few."""

import shutil

import httpx
import numpy as np
import pytest
from PIL import Image

from dhvt import Classifier, open_dataset
from dhvt.artifact import load_artifact
from dhvt.confidence.reference import Measured, Reference, load_reference, write_reference
from dhvt.engines import EngineOptions, measure_reference
from tests.conftest import draw, encode
from tests.serving.conftest import serving

NOISE = encode(Image.fromarray(np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8)))
IMAGES = [*(encode(draw(seed % 3, 200 + seed)) for seed in range(3)), NOISE]
HEADERS = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def model(artifact_path, image_folder, tmp_path_factory):
    """The small model with 60 reference images."""
    path = shutil.copytree(artifact_path, tmp_path_factory.mktemp("reject") / "artifact")
    artifact = load_artifact(path)
    reference = measure_reference(artifact, open_dataset(image_folder), EngineOptions(threads=1, max_batch_size=8))
    write_reference(artifact, reference, {})
    return path


@pytest.fixture(scope="module")
def url(model, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("log") / "log", DHVT_MODEL=str(model)) as address:
        yield address


def post(url, image, query):
    response = httpx.post(f"{url}/classify{query}", content=image, headers=HEADERS)
    assert response.status_code == 200, response.text
    return response.json()


def test_the_p_value_is_that_of_the_classifier(url, model):
    classifier = Classifier.load(model, engine="openvino:fp32", threads=1)
    answers = [post(url, image, "?reject=0.5") for image in IMAGES]
    for image, answer in zip(IMAGES, answers, strict=True):
        expected = classifier.classify(image, reject=0.5)
        assert answer.keys() == {"model", "version", "predictions", "p_known", "known"}
        assert answer["p_known"] == expected.p_known
        assert answer["known"] is (answer["p_known"] > 0.5)
        assert round(61 * answer["p_known"], 3) in range(1, 62)
        assert expected.known is answer["known"]
    assert len({answer["p_known"] for answer in answers}) > 1


def test_the_share_decides_at_its_own_value(url):
    p_value = next(value for image in IMAGES if (value := post(url, image, "?reject=0.5")["p_known"]) < 0.99)
    image = next(image for image in IMAGES if post(url, image, "?reject=0.5")["p_known"] == p_value)
    assert post(url, image, f"?reject={p_value - 0.001:.4f}")["known"] is True
    assert post(url, image, f"?reject={p_value + 0.001:.4f}")["known"] is False
    both = post(url, image, "?reject=0.5&coverage=0.9")
    assert both.keys() == {"model", "version", "predictions", "prediction_set", "p_known", "known"}


def test_without_the_parameter_nothing_is_added(url):
    assert post(url, NOISE, "").keys() == {"model", "version", "predictions"}


def test_batches_say_it_of_each_image(url):
    files = [("image", (f"{number}.png", data)) for number, data in enumerate([*IMAGES, b"broken"])]
    results = httpx.post(f"{url}/classify/batch?reject=0.5", files=files).json()["results"]
    alone = [post(url, image, "?reject=0.5") for image in IMAGES]
    assert [result["known"] for result in results[:-1]] == [answer["known"] for answer in alone]
    assert [result["p_known"] for result in results[:-1]] == pytest.approx([answer["p_known"] for answer in alone], abs=0.05)
    assert results[-1].keys() == {"name", "error"}


def test_info_says_which_share_is_possible(url):
    assert httpx.get(f"{url}/info").json()["reference"]["smallest_reject"] == 0.016394
    assert post(url, NOISE, "?reject=0.016394")["known"] in (True, False)
    response = httpx.post(f"{url}/classify?reject=0.016", content=NOISE, headers=HEADERS)
    assert response.status_code == 400
    message = response.json()["error"]["message"]
    assert message.startswith("reject 0.016 needs 62 reference images, and this model has 60; ask for a larger share, or run ")


def test_what_lacks_the_scores_says_so(server, artifact_copy):
    response = httpx.post(f"{server}/classify?reject=0.1", content=NOISE, headers=HEADERS)
    assert response.status_code == 400
    assert "no reference images, which reject needs; dhvt calibrate" in response.json()["error"]["message"]
    labels = np.zeros(2, np.int32)
    measured = {"fp32": Measured.of(np.full((2, 3), 1 / 3), labels)}
    reference = Reference(labels=labels, hashes=np.zeros(2, np.uint64), measured=measured)
    artifact = write_reference(load_artifact(artifact_copy), reference, {})
    assert load_reference(artifact).measured["fp32"].novelty is None
    with pytest.raises(ValueError, match="no novelty scores, which reject needs; run dhvt calibrate again"):
        Classifier.load(artifact_copy, engine="onnxruntime", threads=1).classify(NOISE, reject=0.5)
