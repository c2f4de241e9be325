"""With TensorRT for RTX, which builds engines without a GPU."""

import copy
import shutil
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from dhvt.artifact import load_artifact
from dhvt.data.preprocess import Preprocess
from dhvt.errors import ArtifactError, ConfigError, ExportError, ParityError
from dhvt.evaluation.agreement import FP32, TOLERANCES
from dhvt.model.config import VARIANTS
from dhvt.model.dhvt import create_model
from dhvt.model.inference import InferenceModel, torch_predict
from export.engine import build_engine, pick_flavour
from export.golden import draw_inputs
from export.graph import export_graph
from export.pipeline import export_model
from export.precision import cast
from export.settings import OPSET_VERSION, TensorRTSettings
from export.source import OPSETS
from export.targets.tensorrt import compare_engine
from export.to_trt import main


def rtx_settings(**values):
    return TensorRTSettings(**{"opt_batch_size": 4, "max_batch_size": 8, "flavour": "tensorrt_rtx"} | values)


def export_engine(checkpoint, out, precision):
    return export_model(checkpoint, out, ["tensorrt"], settings={"tensorrt": rtx_settings(precision=precision)})


@pytest.fixture(autouse=True)
def rtx():
    pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_an_engine_joins_the_artifact(checkpoint, artifact_copy, precision):
    before = load_artifact(artifact_copy).card
    artifact = export_engine(checkpoint, artifact_copy, precision)
    engine = artifact.find_variant(format="tensorrt", precision=precision)
    assert (engine.hardware["flavour"], engine.hardware["profile"]["max_batch_size"]) == ("tensorrt_rtx", 8)
    assert engine.hardware["onnx_sha256"] == before.files["model.onnx"] == artifact.card.files["model.onnx"]
    assert engine.parity["comparisons"]
    assert all(row["max_abs_error"] <= TOLERANCES[precision].atol for row in engine.parity["comparisons"])
    assert artifact.card.golden == before.golden
    (artifact_copy / "model.engine").write_bytes(b"other")
    with pytest.raises(ArtifactError, match=r"model\.engine is not the exported file"):
        load_artifact(artifact_copy)


def test_a_model_folder_alone_gets_its_engine(artifact_copy):
    """As on a server that has no checkpoint."""
    options = ["--flavour", "tensorrt_rtx", "--max-batch-size", "16"]
    result = CliRunner().invoke(main, [str(artifact_copy), *options])
    assert result.exit_code == 0, result.output
    engine = load_artifact(artifact_copy).find_variant(format="tensorrt")
    assert (engine.precision, engine.hardware["profile"]["max_batch_size"]) == ("fp16", 16)
    assert 0 < engine.parity["comparisons"][0]["max_abs_error"] <= TOLERANCES["fp16"].atol
    for refused, message in ((["--precision", "bf16"], "for bf16 give its checkpoint"), (["--out", "x"], "is a model folder")):
        result = CliRunner().invoke(main, [str(artifact_copy), *options, *refused])
        assert result.exit_code == 1
        assert message in result.output
    assert load_artifact(artifact_copy).find_variant(format="tensorrt") == engine


VARIANTS_TO_BUILD = [
    "dhvt_tiny_cifar_patch4",
    "dhvt_tiny_cifar_patch2",
    "dhvt_tiny_imagenet_patch16",
    "dhvt_tiny_domain_patch16",
]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", VARIANTS_TO_BUILD)
def test_two_blocks_of_a_variant_build(name, precision, tmp_path):
    assert build_variant(create_model(name, depth=2), VARIANTS[name].img_size, precision, tmp_path)


@pytest.mark.slow  # nearly all of it is PyTorch's export: 36 s of processor time before 7 s of building, for patch 4
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", VARIANTS_TO_BUILD)
def test_a_whole_variant_builds(name, precision, tmp_path):
    assert build_variant(create_model(name), VARIANTS[name].img_size, precision, tmp_path)


def build_variant(model, size, precision, folder):
    preprocess = Preprocess(size=size)
    export_graph(
        cast(InferenceModel(model, preprocess).eval(), precision),
        preprocess,
        folder / "model.onnx",
        OPSETS.get(precision, OPSET_VERSION),
    )
    types = {entry.data_type for entry in onnx.load(folder / "model.onnx").graph.initializer}
    assert getattr(TensorProto, {"fp16": "FLOAT16", "bf16": "BFLOAT16"}[precision]) in types
    return build_engine(folder / "model.onnx", size, rtx_settings())


def test_an_engine_for_some_gpus_only(artifact_path, tmp_path):
    graph = artifact_path / "model.onnx"
    assert build_engine(graph, (32, 32), rtx_settings(compute_capability=["8.9"]))
    with pytest.raises(ExportError, match=r"does not support compute capability 9\.0, only 7\.5, 8\.0"):
        build_engine(graph, (32, 32), rtx_settings(compute_capability=["8.9", "9.0"]))
    with pytest.raises(ExportError, match="has no timing cache"):
        build_engine(graph, (32, 32), rtx_settings(timing_cache=tmp_path / "cache"))


def test_a_graph_that_tensorrt_cannot_take_fails_with_its_words(tmp_path):
    transpose = helper.make_node("Transpose", ["images"], ["logits"], perm=[0, 3, 1, 2])
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [transpose],
        "uint8",
        [value("images", TensorProto.UINT8, ["batch", 32, 32, 3])],
        [value("logits", TensorProto.UINT8, ["batch", 3, 32, 32])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), tmp_path / "model.onnx")
    with pytest.raises(ExportError, match=r"(?s)cannot parse model\.onnx: .*UInt8"):
        build_engine(tmp_path / "model.onnx", (32, 32), rtx_settings())


def test_another_checkpoints_artifact_is_left_alone(checkpoint, artifact_copy):
    weights = {name: weight * 1.5 if name == "head.weight" else weight for name, weight in checkpoint.weights.items()}
    with pytest.raises(ExportError, match="was exported from another checkpoint"):
        export_engine(replace(checkpoint, weights=weights), artifact_copy, "fp32")
    assert load_artifact(artifact_copy).find_variant(format="tensorrt") is None


def test_a_precision_that_disagrees_builds_nothing(checkpoint, artifact_copy, monkeypatch):
    monkeypatch.setitem(TOLERANCES, "fp16", FP32)
    monkeypatch.setattr("export.source.cast", lambda model, precision: _off_by_one(model))
    with pytest.raises(ParityError, match="onnxruntime in fp16 disagrees"):
        export_engine(checkpoint, artifact_copy, "fp16")
    assert load_artifact(artifact_copy).find_variant(format="tensorrt") is None


def _off_by_one(model):
    model = copy.deepcopy(model)
    model.normalize.shift = model.normalize.shift + 1
    return model


def test_the_engine_is_compared_at_its_largest_batch(checkpoint, monkeypatch):
    """Here PyTorch stands in for the engine, which needs a GPU."""
    right = torch_predict(InferenceModel(checkpoint.build_model(), checkpoint.build_preprocess()).eval())
    images, labels = draw_inputs(8, (32, 32)), np.zeros(8, np.int64)

    def compare(wrong_at):
        engine = nullcontext(lambda batch: right(batch) + (len(batch) == wrong_at))
        monkeypatch.setattr("export.engine.running_engine", lambda *arguments: engine)
        return compare_engine(right, b"", TensorRTSettings(precision="fp32", max_batch_size=96), images, labels)

    found = compare(wrong_at=None)
    assert found.batch_sizes == (1, 2, 7, 64, 96)
    assert found.top1 == found.top1_reference is not None
    with pytest.raises(ParityError, match="tensorrt disagrees"):
        compare(wrong_at=96)


def test_re_exporting_drops_the_engine_of_the_old_graph(checkpoint, artifact_copy):
    shutil.rmtree(artifact_copy)
    built = export_engine(checkpoint, artifact_copy, "fp32")
    assert built.find_variant(format="tensorrt")
    again = export_model(checkpoint, artifact_copy)
    assert again.find_variant(format="tensorrt") is None
    assert not (artifact_copy / "model.engine").exists()


def test_without_a_gpu_or_rtx_it_says_which_to_get(monkeypatch):
    monkeypatch.setattr("export.engine.find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"(?s)no engine can be built: .*pip install tensorrt\. .*pip install tensorrt-rtx"):
        pick_flavour()
    with pytest.raises(ExportError, match="no TensorRT flavour 'trt'"):
        pick_flavour("trt")


def test_a_build_that_fails_tells_tensorrts_own_messages(artifact_path):
    with pytest.raises(ExportError, match=r"cannot build an engine of model\.onnx: .*\[E\] "):
        build_engine(artifact_path / "model.onnx", (64, 64), rtx_settings())  # the graph's images are 32 pixels wide


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 9, 8), (4, 2, 8)])
def test_batch_sizes_that_cannot_be(sizes):
    with pytest.raises(ConfigError, match="they must be at least 1 and rise"):
        TensorRTSettings(min_batch_size=sizes[0], opt_batch_size=sizes[1], max_batch_size=sizes[2])
