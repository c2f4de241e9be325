"""``?coverage=`` of a real server, with a model that has reference images, and with one that has none."""

import json
import shutil

import httpx
import numpy as np
import pytest

from dhvt import Classifier
from dhvt.artifact import load_artifact
from dhvt.confidence.reference import Measured, Reference, write_reference
from tests.conftest import CLASSES, draw, encode
from tests.serving.conftest import serving

IMAGES = [encode(draw(seed % 3, 200 + seed)) for seed in range(4)]
PNG = {"content": IMAGES[0], "headers": {"Content-Type": "image/png"}}


@pytest.fixture(scope="module")
def model(artifact_path, tmp_path_factory):
    """The small model with 30 reference images of which it gives most a few labels."""
    path = shutil.copytree(artifact_path, tmp_path_factory.mktemp("coverage") / "artifact")
    probabilities = np.random.default_rng(0).dirichlet([1, 1, 1], 30)
    labels = np.arange(30, dtype=np.int32) % 3
    measured = {"fp32": Measured.of(probabilities, labels)}
    write_reference(load_artifact(path), Reference(labels=labels, hashes=np.zeros(30, np.uint64), measured=measured), {})
    return path


@pytest.fixture(scope="module")
def url(model, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("log") / "log", DHVT_MODEL=str(model)) as address:
        yield address


def test_the_set_is_that_of_the_classifier(url, model):
    classifier = Classifier.load(model, engine="openvino:fp32", threads=1)
    for coverage in (0.3, 0.6, 0.9):
        answer = httpx.post(f"{url}/classify?top_k=1&coverage={coverage}", **PNG).json()
        expected = classifier.classify(IMAGES[0], top_k=1, coverage=coverage)
        assert answer["prediction_set"] == expected.prediction_set
        assert answer.keys() == {"model", "version", "predictions", "prediction_set"}
    few = httpx.post(f"{url}/classify?coverage=.99", **PNG).json()
    assert sorted(few["prediction_set"]) == CLASSES
    assert few["prediction_set_note"] == "every label: coverage 0.99 needs 99 reference images, and this model has 30"


def test_the_set_by_class_is_that_of_the_classifier(url, model):
    classifier = Classifier.load(model, engine="openvino:fp32", threads=1)
    for coverage in ("0.5", "0.8"):
        answers = [
            httpx.post(f"{url}/classify?coverage={coverage}&by_class=true", **PNG | {"content": data}).json() for data in IMAGES
        ]
        expected = [classifier.classify(data, coverage=float(coverage), by_class=True).prediction_set for data in IMAGES]
        assert [answer["prediction_set"] for answer in answers] == expected
    assert "prediction_set_note" not in answers[0]
    few = httpx.post(f"{url}/classify?coverage=.95&by_class=true", **PNG).json()
    assert few["prediction_set_note"] == (
        "coverage 0.95 by class needs 19 reference images of each class, and one has 10: for classes with fewer it holds on "
        "average over these classes"
    )


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("by_class=true", "by_class needs coverage, as 0.95"),
        ("coverage=0.9&by_class=1", "by_class is '1'; it must be true or false"),
    ],
)
def test_by_class_is_a_switch_of_coverage(url, query, message):
    response = httpx.post(f"{url}/classify?{query}", **PNG)
    assert (response.status_code, response.json()["error"]["message"]) == (400, message)


def test_without_the_parameter_nothing_is_added(url):
    answer = httpx.post(f"{url}/classify", **PNG).json()
    assert answer.keys() == {"model", "version", "predictions"}


def test_batches_have_a_set_for_each_image(url):
    files = [("image", (f"{number}.png", data)) for number, data in enumerate([*IMAGES, b"broken"])]
    results = httpx.post(f"{url}/classify/batch?coverage=0.9", files=files).json()["results"]
    alone = [
        httpx.post(f"{url}/classify?coverage=0.9", content=data, headers={"Content-Type": "image/png"}).json()
        for data in IMAGES
    ]
    assert [result["prediction_set"] for result in results[:-1]] == [answer["prediction_set"] for answer in alone]
    assert results[-1].keys() == {"name", "error"}
    lines = httpx.post(f"{url}/classify/batch?coverage=0.9", files=files, headers={"Accept": "application/x-ndjson"}).text
    assert [json.loads(line).get("prediction_set") for line in lines.splitlines()] == [
        *(answer["prediction_set"] for answer in alone),
        None,
    ]


def test_info_says_what_the_reference_allows(url, server):
    expected = {"images": 30, "largest_coverage": 0.967741, "smallest_reject": None, "precision": "fp32", "measured_in": "fp32"}
    assert httpx.get(f"{url}/info").json()["reference"] == expected
    assert httpx.get(f"{server}/info").json()["reference"] is None


@pytest.mark.parametrize("value", ["95", "0", "1", "0.0", "-0.5", "nan", "0.5x", "", "1e-3"])
def test_a_share_is_between_0_and_1(url, value):
    for name, example in (("coverage", "0.95"), ("reject", "0.01")):
        response = httpx.post(f"{url}/classify", params={name: value}, **PNG)
        assert response.status_code == 400
        expected = f"{name} is {value!r}; it must be a number between 0 and 1, as {example}"
        assert response.json()["error"] == {"code": "bad_request", "message": expected}


@pytest.mark.parametrize("name", ["coverge", "topk"])
def test_a_misspelt_parameter_is_not_ignored(url, name):
    response = httpx.post(f"{url}/classify", params={name: "1"}, **PNG)
    assert response.status_code == 400
    assert response.json()["error"]["message"] == f"no parameter {name!r}; there are top_k, coverage, by_class, reject"


@pytest.mark.parametrize("route", ["/classify", "/classify/batch"])
def test_a_model_without_reference_images_says_what_it_needs(server, route):
    response = httpx.post(f"{server}{route}?coverage=0.9", files={"image": IMAGES[0]})
    assert response.status_code == 400
    assert "no reference images, which coverage needs; dhvt calibrate" in response.json()["error"]["message"]
