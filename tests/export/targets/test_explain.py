"""The graph with the attention: its outputs are PyTorch's, its weights are model.onnx's, and no engine takes it."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from dhvt.artifact import EXPLAIN, load_artifact, write_card
from dhvt.engines.registry import all_candidates
from dhvt.errors import ParityError
from dhvt.model.attention import attention_outputs
from dhvt.model.checkpoint import Checkpoint
from dhvt.model.factory import build, configure
from dhvt.model.inference import InferenceModel
from export.explain_graph import find_attention
from export.pipeline import export_model

OUTPUTS = ["logits", "class_attention", "head_token_attention", "rollout"]


def graph_of(shapes, weight="model.blocks.0.attn.ht_proj.bias"):
    """A graph of softmaxes alone, and a weight of this name."""
    nodes = [onnx.helper.make_node("Softmax", ["x"], [f"y{number}"]) for number in range(len(shapes))]
    values = [
        onnx.helper.make_tensor_value_info(f"y{number}", onnx.TensorProto.FLOAT, ["batch", *shape])
        for number, shape in enumerate(shapes)
    ]
    weights = [onnx.numpy_helper.from_array(np.zeros(1, np.float32), weight)]
    return onnx.helper.make_graph(nodes, "graph", [], [], weights, value_info=values)


@pytest.mark.parametrize(
    ("graph", "size", "grid"),
    [
        (graph_of([(4, 69, 69)] * 3), (32, 32), (8, 8)),
        (graph_of([(3, 52, 52)]), (96, 128), (6, 8)),
        (graph_of([(3, 65, 65)], weight="blocks.0.attn.qkv.weight"), (32, 32), None),  # a plain vision transformer
        (graph_of([(4, 68, 68)]), (32, 32), None),  # tokens of no grid
        (graph_of([(4, 69, 69), (8, 69, 69)]), (32, 32), None),
        (graph_of([]), (32, 32), None),
    ],
)
def test_attention_is_found_where_it_is_known(graph, size, grid):
    found = find_attention(graph, size)
    assert (found and found.grid) == grid


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


def run(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": images}), strict=True)), session


def test_it_gives_the_attention_of_pytorch(checkpoint, artifact_path, images):
    got, session = run(artifact_path / "model.explain.onnx", images)
    model = InferenceModel(checkpoint.build_model(), checkpoint.build_preprocess()).eval()
    expected = attention_outputs(model, images)
    assert sorted(got) == sorted(expected) == sorted(OUTPUTS)
    for name, values in expected.items():
        assert got[name].shape == values.shape
        assert np.allclose(got[name], values, atol=1e-5), name
    assert got["head_token_attention"].shape == (5, 2, 4, 64)  # images, layers, head tokens, patches
    assert session.get_modelmeta().custom_metadata_map == {"dhvt_grid": "8 8"}


def test_the_logits_are_those_that_are_served(artifact_path, images):
    got, _ = run(artifact_path / "model.explain.onnx", images)
    assert np.array_equal(got["logits"], run(artifact_path / "model.onnx", images)[0]["logits"])


def test_rollout_of_a_model_whose_tokens_do_not_differ_is_even(checkpoint, tmp_path, images):
    """Queries of zero attend to all tokens alike: of a layer the class token keeps a third, and gives the rest to all."""
    weights = {name: torch.zeros_like(value) if ".qkv." in name else value for name, value in checkpoint.weights.items()}
    export_model(replace(checkpoint, weights=weights), tmp_path / "artifact")
    rollout = run(tmp_path / "artifact" / "model.explain.onnx", images)[0]["rollout"]
    tokens, head_tokens = 65, 4
    everywhere = (1 + head_tokens / tokens) / (tokens + head_tokens)  # attention to a token, and through the head tokens
    assert np.allclose(rollout[:, 0], 2 / 3 * everywhere)
    assert np.ptp(rollout[:, 1]) < 1e-7


def test_the_weights_are_in_the_other_file(artifact_copy, images):
    explain, graph = artifact_copy / "model.explain.onnx", artifact_copy / "model.onnx"
    assert explain.stat().st_size < graph.stat().st_size
    graph.unlink()
    with pytest.raises(Exception, match=r"model\.onnx"):
        run(explain, images)


def test_no_engine_and_no_digest_depends_on_it(checkpoint, artifact_copy):
    artifact = load_artifact(artifact_copy)
    variant = artifact.find_variant(format=EXPLAIN)
    assert (variant.precision, variant.files) == ("fp32", ("model.explain.onnx",))
    assert artifact.find_variant(precision="fp32").format == "onnx"
    without = replace(
        artifact.card,
        variants=artifact.card.variants[:1],
        files={name: value for name, value in artifact.card.files.items() if name != "model.explain.onnx"},
    )
    assert (without.digest, without.engine_digest) == (artifact.card.digest, artifact.card.engine_digest)
    assert all_candidates(artifact) == all_candidates(replace(artifact, card=without))


def test_it_is_added_to_an_older_model_folder(artifact_copy, images):
    older = load_artifact(artifact_copy)
    expected = (artifact_copy / "model.explain.onnx").read_bytes()
    (artifact_copy / "model.explain.onnx").unlink()
    write_card(artifact_copy, replace(older.card, variants=older.card.variants[:1]))
    older = load_artifact(artifact_copy)
    grown = export_model(older, artifact_copy, ["explain"])
    assert grown.find_variant(format=EXPLAIN).parity["compared_with"] == "model.onnx"
    assert (artifact_copy / "model.explain.onnx").read_bytes() == expected
    assert (grown.card.version, grown.digest) == (older.card.version, older.digest)


def test_a_graph_that_disagrees_is_not_written(checkpoint, artifact_copy, monkeypatch):
    before = load_artifact(artifact_copy).card

    def wrong(model, images):
        return {name: values + 0.01 for name, values in attention_outputs(model, images).items()}

    monkeypatch.setattr("export.source.attention_outputs", wrong)
    with pytest.raises(ParityError, match=r"explain: logits differs by 0\.01 of at most 0.001"):
        export_model(checkpoint, artifact_copy)
    assert load_artifact(artifact_copy).card == before


def test_a_model_without_head_tokens_is_exported_without(tmp_path):
    name = "test_vit"
    config = configure(name, num_classes=3, img_size=160)
    trained = Checkpoint(
        name=name,
        config=config,
        weights=build(name, config).state_dict(),
        classes=["a", "b", "c"],
        preprocess={"size": [160, 160]},
    )
    lines = []
    artifact = export_model(trained, tmp_path / "artifact", log=lambda message, err=False: lines.append(message))
    assert [variant.format for variant in artifact.card.variants] == ["onnx"]
    assert not (tmp_path / "artifact" / "model.explain.onnx").exists()
    assert lines[-1] == "left out: explain, since the model has no head tokens; its maps are made by masking"
