"""Explanations of a model's answers, in Python."""

import io
import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from PIL import Image

from dhvt import Classifier
from dhvt.artifact import EXPLAIN, load_artifact, write_card
from dhvt.errors import ConfigError, EngineError
from dhvt.explanation.attention import AttentionGraph
from dhvt.explanation.explainer import LARGEST_SIDE, Explainer, Question
from tests.conftest import CLASSES, draw


@pytest.fixture(scope="module")
def classifier(artifact_path):
    return Classifier.load(artifact_path, "onnxruntime", threads=2)


@pytest.fixture(scope="module")
def image():
    return draw(0, 0)


def test_the_likeliest_class_is_explained_unless_another_is_named(classifier, image):
    predictions = {entry["label"]: entry["score"] for entry in classifier.classify(image)}
    best = next(iter(predictions))
    found = classifier.explain(image, masks=8)
    assert (found.method, found.label, found.masks, found.layer) == ("masking", best, 8, None)
    other = next(label for label in CLASSES if label != best)
    asked = classifier.explain(image, label=other, masks=8)
    assert asked.label == other
    for explanation in (found, asked):
        assert explanation.score == pytest.approx(predictions[explanation.label], abs=1e-5)
        assert [(each.name, each.values.shape) for each in explanation.maps] == [("masking", (32, 32))]
    assert not np.allclose(found.maps[0].values, asked.maps[0].values)


def test_the_map_does_not_depend_on_the_size_of_the_batches(classifier, image):
    pixels = classifier._preprocess(image)
    question = Question(masks=12, seed=3)
    maps = [
        classifier.explainer.explain(pixels, question, classifier.predict, batch_size=size).maps[0].values for size in (4, 12)
    ]
    assert np.allclose(*maps, atol=1e-5)


def test_head_tokens_have_a_map_each(classifier, artifact_path, image):
    found = classifier.explain(image, method="head-tokens", layer=1)
    assert [each.name for each in found.maps] == [
        "mean of the head tokens",
        *(f"head token {number}" for number in range(1, 5)),
        "class token",
    ]
    attention = AttentionGraph(load_artifact(artifact_path)).run(found.pixels)
    assert (attention.layers, attention.head_tokens.shape) == (2, (2, 4, 8, 8))
    expected = attention.head_tokens[0, 2]
    assert np.allclose(found.maps[3].values, expected / expected.mean())
    assert np.allclose(found.maps[0].values.mean(), 1)
    assert classifier.explain(image, method="head-tokens").layer == 2


def test_a_graph_that_computes_something_else_shows_no_attention(artifact_path):
    artifact = load_artifact(artifact_path)
    golden = artifact.card.golden
    wrong = replace(golden, logits=[[value + 0.1 for value in row] for row in golden.logits])
    with pytest.raises(EngineError, match=r"the attention in fp32: self-test at batch 1 is off by 0\.1"):
        AttentionGraph(replace(artifact, card=replace(artifact.card, golden=wrong)))


def test_a_graph_that_was_put_in_the_place_of_the_checked_one_is_not_used(artifact_copy):
    artifact = load_artifact(artifact_copy)
    graph = artifact.path_of(artifact.find_variant(format=EXPLAIN))
    model = onnx.load(graph)
    model.doc_string = "another"
    onnx.save(model, graph)
    with pytest.raises(EngineError, match="was replaced since it was loaded; load it again"):
        AttentionGraph(artifact)


def test_rollout_has_one_map(classifier, image):
    first, last = (classifier.explain(image, method="rollout", layer=layer) for layer in (1, 2))
    assert ([each.name for each in last.maps], last.maps[0].values.shape) == (["rollout"], (8, 8))
    assert not np.allclose(first.maps[0].values, last.maps[0].values)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"label": "cat"}, "label is 'cat'; the model's classes are circle, square, stripes"),
        ({"method": "gradcam"}, "method is 'gradcam'; choose one of masking, head-tokens, rollout"),
        ({"method": "rollout", "layer": 3}, "layer is 3; the model has 2"),
        ({"method": "rollout", "layer": 0}, "layer is 0; head-tokens and rollout take one from 1"),
        ({"layer": 1}, "masking takes none"),
        ({"masks": 1}, "masks is 1; method masking takes at least 2"),
        ({"method": "rollout", "masks": 100}, "masks is 100; method masking takes at least 2, and the others none"),
    ],
)
def test_what_cannot_be_answered_is_refused(classifier, image, asked, message):
    with pytest.raises(ConfigError, match=message):
        classifier.explain(image, **asked)


def test_a_model_without_attention_is_explained_by_masking(artifact_copy, image):
    card = load_artifact(artifact_copy).card
    write_card(artifact_copy, replace(card, variants=card.variants[:1]))
    classifier = Classifier.load(artifact_copy, "onnxruntime", threads=2)
    assert classifier.explainer.methods == ("masking",)
    assert classifier.explain(image, masks=4).method == "masking"
    with pytest.raises(ConfigError, match=r"rollout needs the graph with the attention.* --target explain adds it"):
        classifier.explain(image, method="rollout")


def test_it_becomes_json_and_a_picture(classifier, image):
    found = classifier.explain(image, masks=4)
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain.keys() == {"method", "label", "score", "size", "masks", "maps"}
    assert plain["size"] == [32, 32]
    assert np.allclose(plain["maps"][0]["values"], found.maps[0].values, atol=1e-4)
    heads = classifier.explain(image, method="head-tokens")
    assert heads.to_dict()["layer"] == 2
    sizes = [Image.open(io.BytesIO(each.to_png())).size for each in (found, heads)]
    assert sizes[0] == (2 * 224 + 3 * 12, found.draw().height)
    assert sizes[1][0] == 4 * 224 + 5 * 12


def test_maps_of_large_inputs_are_small(artifact_path):
    explainer = Explainer(load_artifact(artifact_path))
    pixels = np.zeros((130, 96, 3), np.uint8)

    def predict(images):
        return np.stack([images[:, :20, :20].mean(axis=(1, 2, 3)) / 64] * 3, axis=1) * [1, 0, 0]

    found = explainer.explain(pixels, Question(masks=40), predict, batch_size=8)
    assert found.maps[0].values.shape == (44, 32)
    assert max(found.maps[0].values.shape) <= LARGEST_SIDE
    assert found.to_dict()["size"] == [130, 96]
