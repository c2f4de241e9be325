"""``GET /drift`` of a real server with two workers, on images that are sent to it."""

import shutil
import time

import httpx
import numpy as np
import pytest

from dhvt.artifact import load_artifact
from dhvt.confidence.reference import Measured, Reference, write_reference
from dhvt.data.preprocess import preprocess_image
from dhvt.engines import open_engine
from dhvt.evaluation.calibration import softmax
from tests.conftest import draw, encode
from tests.serving.conftest import serving


def images(count, first, change=lambda image: image):
    return [encode(change(draw(seed % 3, first + seed))) for seed in range(count)]


@pytest.fixture(scope="module")
def model(artifact_path, tmp_path_factory):
    """The small model, with what it gives for 400 drawn images as reference."""
    path = shutil.copytree(artifact_path, tmp_path_factory.mktemp("drift") / "artifact")
    artifact = load_artifact(path)
    engine = open_engine(artifact, "openvino:fp32", threads=1).engine
    pixels = np.stack([preprocess_image(image, artifact.card.preprocess) for image in images(400, 1000)])
    logits = np.concatenate([engine.predict(pixels[start : start + 32]) for start in range(0, 400, 32)])
    measured = Measured.of(softmax(logits / artifact.card.temperature), np.arange(400) % 3)
    labels, hashes = np.arange(400, dtype=np.int32) % 3, np.zeros(400, np.uint64)
    write_reference(artifact, Reference(labels=labels, hashes=hashes, measured={"fp32": measured}), {})
    return path


def send(url, files):
    with httpx.Client() as client:  # a connection, which one of the workers has
        for start in range(0, len(files), 80):
            form = [("image", (f"{number}.png", data)) for number, data in enumerate(files[start : start + 80])]
            assert client.post(f"{url}/classify/batch", files=form, timeout=60).status_code == 200


def ask_until(url, is_reached):
    """The first report that is as expected; those of other workers are about a second old."""
    deadline = time.monotonic() + 60
    while True:
        report = httpx.get(f"{url}/drift").json()
        if is_reached(report):
            return report
        assert time.monotonic() < deadline, report
        time.sleep(0.1)


def test_images_that_change(model, tmp_path):
    settings = {"DHVT_MODEL": str(model), "DHVT_WORKERS": "2", "DHVT_DRIFT_STATE": str(tmp_path / "state")}
    with serving(tmp_path / "log", **settings) as url:
        new = httpx.get(f"{url}/drift").json()
        assert (new["images"], new["alarm"], new["reference_images"]) == (0, None, 400)
        send(url, images(256, 2000))
        usual = ask_until(url, lambda report: report["images"] >= 192)  # each worker keeps up to 31 waiting
        assert usual["alarm"] is None
        send(url, images(640, 3000, lambda image: image.point(lambda value: 0)))  # a camera that is covered
        report = ask_until(url, lambda report: report["alarm"])
        assert report["evidence"] > 100
        assert report["alarm"]["began_about"] <= report["alarm"]["at"]
        text = ""
        while "dhvt_drift_alarm 1.0" not in text:
            text = httpx.get(f"{url}/metrics").text
        evidence = next(line for line in text.splitlines() if line.startswith("dhvt_drift_log10_evidence "))
        assert float(evidence.split()[1]) > 2
        tested = ask_until(url, lambda report: report["images"] >= 832)["images"]
    with serving(tmp_path / "log", **settings) as url:
        again = httpx.get(f"{url}/drift").json()
        assert again["images"] >= tested
        assert again["alarm"]["at"] <= report["alarm"]["at"]


def test_a_model_without_reference_images_says_what_it_needs(server):
    response = httpx.get(f"{server}/drift")
    assert response.status_code == 404
    assert "has no reference in fp32; dhvt calibrate --model" in response.json()["error"]["message"]
