import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner

from dhvt.artifact import load_artifact
from dhvt.errors import ArtifactError, CheckpointError, ParityError
from dhvt.evaluation.agreement import FP32
from dhvt.model.checkpoint import save_checkpoint
from dhvt.model.inference import InferenceModel, torch_predict
from export.parity import RUNTIMES, compare_outputs
from export.pipeline import export_model
from export.settings import ExportOptions
from export.to_onnx import main

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (128, 32, 32, 3), dtype=np.uint8)


def test_the_graph_is_the_contract(artifact_path):
    graph = onnx.load(artifact_path / "model.onnx").graph
    (source,), (sink,) = graph.input, graph.output
    assert (source.name, sink.name) == ("images", "logits")
    assert source.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert sink.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    dims = [dim.dim_value or dim.dim_param for dim in source.type.tensor_type.shape.dim]
    assert isinstance(dims[0], str)
    assert dims[1:] == [32, 32, 3]
    assert {node.op_type for node in graph.node if "images" in node.input} <= {"Cast", "Shape"}
    assert sum(node.op_type == "LayerNormalization" for node in graph.node) == 2 * 2 + 2 + 1
    assert sorted(path.name for path in artifact_path.iterdir()) == ["model.explain.onnx", "model.json", "model.onnx"]


def test_the_graph_names_no_path_of_this_machine(artifact_path):
    assert str(ROOT).encode() not in (artifact_path / "model.onnx").read_bytes()


@pytest.mark.parametrize("batch", [1, 2, 7, 64, 100])
def test_onnx_says_what_pytorch_says(checkpoint, artifact_path, images, batch):
    model = InferenceModel(checkpoint.build_model(), checkpoint.build_preprocess()).eval()
    session = onnxruntime.InferenceSession(artifact_path / "model.onnx", providers=["CPUExecutionProvider"])
    got = session.run(None, {"images": images[:batch]})[0]
    assert np.allclose(got, torch_predict(model)(images[:batch]), atol=1e-4)


def test_the_card_tells_what_was_done(artifact_path):
    card = load_artifact(artifact_path).card
    graph = card.variants[0]
    assert (graph.format, graph.precision, graph.files) == ("onnx", "fp32", ("model.onnx",))
    assert {row["runtime"] for row in graph.parity["comparisons"]} == {"onnxruntime", "openvino"}
    assert all(row["max_abs_error"] <= FP32.atol for row in graph.parity["comparisons"])
    assert card.versions["torch"] == torch.__version__.split("+")[0]
    assert len(card.golden.images) == len(card.golden.logits) == 4


@pytest.mark.parametrize("wrong", [lambda x: x + 0.01, lambda x: x[:, ::-1], lambda x: x * np.nan, lambda x: x[:, :2]])
def test_another_answer_is_refused(wrong, images):
    def reference(batch):
        return batch.reshape(len(batch), -1)[:, :3].astype(np.float32)

    compare_outputs("same", reference, reference, images, FP32)
    with pytest.raises(ParityError):
        compare_outputs("other", reference, lambda batch: wrong(reference(batch)), images, FP32)


def test_a_runtime_that_disagrees_leaves_the_old_artifact(checkpoint, artifact_copy, monkeypatch):
    before = load_artifact(artifact_copy).card
    monkeypatch.setitem(RUNTIMES, "onnxruntime", lambda graph: lambda batch: np.ones((len(batch), 3), np.float32))
    with pytest.raises(ParityError, match="onnxruntime disagrees"):
        export_model(checkpoint, artifact_copy)
    assert load_artifact(artifact_copy).card == before


def test_a_second_export_replaces_the_first(checkpoint, artifact_copy, image_folder):
    artifact = export_model(
        replace(checkpoint, metrics={"val_top1": 44.0}), artifact_copy, options=ExportOptions(data=str(image_folder))
    )
    assert artifact.card.metrics == {"val_top1": 44.0}
    parity = artifact.find_variant(format="onnx").parity
    assert parity["images"] == "real"
    for row in parity["comparisons"]:
        assert 0 < row["top1"] == row["top1_reference"] <= 100


def test_the_command(checkpoint, tmp_path):
    save_checkpoint(checkpoint, tmp_path / "ckpt.pt")
    command = [sys.executable, str(ROOT / "export" / "to_onnx.py"), "--resize-mode", "squash", str(tmp_path / "ckpt.pt")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "same top-1 for 100.0% of 128 drawn images" in result.stdout
    card = load_artifact(tmp_path / "artifact").card
    assert (card.architecture, card.preprocess.resize_mode) == ("dhvt_test", "squash")
    absent = CliRunner().invoke(main, ["absent.pt"])
    assert (absent.exit_code, absent.stderr) == (1, "Error: no checkpoint at absent.pt\n")


def test_refusals(checkpoint, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="choose another"):
        export_model(checkpoint, tmp_path)
    wrong = replace(checkpoint, weights={})
    with pytest.raises(CheckpointError, match="do not fit"):
        export_model(wrong, tmp_path / "artifact")
