"""dhvt.Classifier with the small model: every kind of image, streams, errors, bounded memory."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dhvt import Classifier, ImageError, evaluate, load_artifact, open_dataset
from dhvt.engines import open_engine
from dhvt.errors import ArtifactError, ConfigError, DataError, EngineError
from dhvt.hardware.cpus import available_cpus
from dhvt.ranking import rank
from tests.conftest import draw, encode


@pytest.fixture(scope="module")
def classifier(artifact_path):
    return Classifier.load(artifact_path, engine="onnxruntime", threads=1, max_batch_size=4)


def test_images_of_12_bits_and_floats_are_scaled_by_the_model_s_white(classifier):
    card = classifier.artifact.card
    preprocess = replace(card.preprocess, integer_white=4095, float_white=1.0)
    model = Classifier(replace(classifier.artifact, card=replace(card, preprocess=preprocess)), classifier.engine)
    grey = draw(1, 5).convert("L")
    pixels = np.asarray(grey)
    expected = classifier.classify(grey)
    for values in (pixels.astype(np.uint16) * 16, (pixels / 255).astype(np.float32)):
        image = Image.fromarray(values)
        assert model.classify(image) == model.classify(encode(image, "TIFF")) == expected
    with pytest.raises(ImageError, match="where 0 is black and 4095 is white"):
        model.classify(Image.fromarray(pixels.astype(np.uint16) * 257))
    with pytest.raises(ImageError, match=r"the array is uint16 .*; an image is uint8 .*, 0 to 255"):
        model.classify(pixels.astype(np.uint16))


def test_every_kind_of_image_gives_the_same_classes(classifier, tmp_path):
    image = draw(1, 5)
    image.save(tmp_path / "a.png")
    path = tmp_path / "a.png"
    results = [classifier.classify(kind) for kind in (path, str(path), path.read_bytes(), image, np.asarray(image))]
    assert all(result == results[0] for result in results)
    assert {entry["label"] for entry in results[0]} == set(classifier.classes)
    assert sum(entry["score"] for entry in results[0]) == pytest.approx(1, abs=1e-4)
    assert classifier.classify(path, top_k=1) == results[0][:1]


def test_a_pillow_image_is_turned_upright(classifier):
    image = draw(2, 3)
    turned = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 270 degrees
    turned.info["exif"] = exif.tobytes()
    turned.getexif().load(exif.tobytes())
    assert classifier.classify(turned) == classifier.classify(image)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"nothing", "not an image in a known format"),
        (b"", "0 bytes"),
        ("absent.png", "cannot read absent.png"),
        (np.zeros((8, 8, 3)), r"the array is float64 \(8, 8, 3\); an image is uint8 \(height, width, 3\) in RGB"),
        (np.zeros((8, 8), np.uint8), r"the array is uint8 \(8, 8\)"),
        (np.zeros((0, 8, 3), np.uint8), r"the array is uint8 \(0, 8, 3\)"),
    ],
)
def test_an_image_that_cannot_be_read(classifier, image, message):
    with pytest.raises(ImageError, match=message):
        classifier.classify(image)
    first, error, last = classifier.classify_many([draw(0, 1), image, draw(1, 1)])
    assert isinstance(error, ImageError)
    assert (first, last) == (classifier.classify(draw(0, 1)), classifier.classify(draw(1, 1)))


def test_another_type_is_a_type_error(classifier):
    with pytest.raises(TypeError, match="an image is a path, bytes, a Pillow image or an array, not int"):
        classifier.classify(3)
    with pytest.raises(TypeError, match="not int"):
        list(classifier.classify_many([draw(0, 1), 3]))


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 37])
def test_a_stream_gives_each_image_its_own_classes_in_order(classifier, count):
    images = [draw(seed % 3, seed) for seed in range(count)]
    expected = [classifier.classify(image, top_k=2) for image in images]
    results = list(classifier.classify_many(iter(images), top_k=2))
    for result, alone in zip(results, expected, strict=True):
        assert [entry["label"] for entry in result] == [entry["label"] for entry in alone]
        assert [entry["score"] for entry in result] == pytest.approx([entry["score"] for entry in alone], abs=1e-4)


def test_a_batch_of_unreadable_images_alone(classifier):
    results = list(classifier.classify_many([b"no"] * 9))
    assert len(results) == 9
    assert all(isinstance(result, ImageError) for result in results)


def test_a_stream_is_read_only_so_far_ahead(classifier):
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield encode(draw(0, 1))

    before = threading.active_count()
    results = classifier.classify_many(endless())
    furthest = 0
    for number, _ in zip(range(1, 201), results, strict=False):
        furthest = max(furthest, taken - number)
    assert furthest < available_cpus() + 16
    results.close()
    assert threading.active_count() == before


def test_images_are_decoded_while_the_engine_runs(artifact_path):
    """The engine's second call does not come before an image beyond both batches is decoded."""
    artifact = load_artifact(artifact_path)
    real = open_engine(artifact, "onnxruntime", threads=1).engine
    further = threading.Event()

    class Waiting:
        name, precision, concurrency, preferred_batch_size = "waiting", "fp32", 1, None

        def predict(self, images):
            assert further.wait(30)
            return real.predict(images)

    def images():
        for seed in range(12):
            if seed == 6:
                further.set()
            yield draw(0, seed)

    assert len(list(Classifier(artifact, Waiting(), max_batch_size=4).classify_many(images()))) == 12


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_an_error(artifact_path, value):
    class Broken:
        name, precision, concurrency, preferred_batch_size = "broken", "fp32", 1, None

        def predict(self, images):
            return np.full((len(images), 3), value, np.float32)

    classifier = Classifier(load_artifact(artifact_path), Broken())
    with pytest.raises(EngineError, match="broken in fp32 gave logits that are not finite numbers"):
        classifier.classify(draw(0, 1))
    with pytest.raises(EngineError, match="not finite"):
        list(classifier.classify_many([draw(0, 1)]))


def test_scores_are_the_servers(classifier, artifact_path):
    artifact = load_artifact(artifact_path)
    pixels = np.asarray(draw(0, 1).resize((32, 32)))  # of the network's size: nothing is resized
    expected = rank(classifier.engine.predict(pixels[None]), artifact.card)[0].top(artifact.card, 3)
    assert classifier.classify(pixels, top_k=3) == expected


def test_what_cannot_be_loaded(tmp_path, artifact_path, monkeypatch):
    with pytest.raises(ArtifactError, match="is no model folder"):
        Classifier.load(tmp_path)
    with pytest.raises(EngineError, match="no engine 'warp'"):
        Classifier.load(artifact_path, engine="warp")
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="model is 'nothing:v1'"):
        Classifier.load("nothing:v1")


def test_evaluate(classifier, image_folder):
    seen = []
    result = evaluate(classifier, open_dataset(image_folder, classes=classifier.classes), on_progress=seen.append)
    assert (result.images, result.skipped, sum(seen)) == (60, 0, 60)


def test_images_of_other_classes_or_in_another_order_are_not_measured(classifier, image_folder, tmp_path):
    for label, name in enumerate(("x", "y", "z")):
        (tmp_path / name).mkdir()
        draw(label, 0).save(tmp_path / name / "a.png")
    with pytest.raises(DataError, match="has the classes x, y, z, in this order, and the model circle"):
        evaluate(classifier, open_dataset(tmp_path))


def test_threads_do_not_call_the_engine_at_once_more_often_than_it_allows(artifact_path):
    """An engine on a GPU has one pair of buffers."""
    artifact = load_artifact(artifact_path)
    real = open_engine(artifact, "onnxruntime", threads=1).engine
    running, most = [], []

    class Counting:
        name, precision, concurrency, preferred_batch_size = "counting", "fp32", 1, None

        def predict(self, images):
            running.append(1)
            most.append(len(running))
            time.sleep(0.01)
            running.pop()
            return real.predict(images)

    classifier = Classifier(artifact, Counting())
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(classifier.classify, [draw(0, seed) for seed in range(32)]))
    assert max(most) == 1
