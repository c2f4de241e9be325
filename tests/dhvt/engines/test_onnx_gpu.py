"""ONNX Runtime's GPU providers where there is no GPU, with whichever of onnxruntime and onnxruntime-gpu is installed."""

import stat
from pathlib import Path

import onnxruntime
import pytest

from dhvt.artifact import load_artifact
from dhvt.engines import check_engine, open_engine
from dhvt.engines.onnx_gpu import (
    CUDA,
    TENSORRT,
    OnnxRuntimeCUDAEngine,
    OnnxRuntimeTensorRTEngine,
    open_session,
    strayed_ops,
)
from dhvt.errors import EngineError, EngineUnavailable
from dhvt.hardware.gpus import read_driver

pytestmark = pytest.mark.skipif(read_driver() is not None, reason="there is an NVIDIA driver here")

GPU_BUILD = CUDA in onnxruntime.get_available_providers()
ENGINES = {"onnxruntime-cuda": OnnxRuntimeCUDAEngine, "onnxruntime-tensorrt": OnnxRuntimeTensorRTEngine}


@pytest.fixture
def artifact(artifact_path):
    return load_artifact(artifact_path)


@pytest.mark.parametrize("name", ENGINES)
def test_asked_for_by_name_it_says_what_is_missing(artifact, name):
    what = "no NVIDIA driver here" if GPU_BUILD else r"has no .*; pip uninstall onnxruntime; pip install 'onnxruntime-gpu"
    with pytest.raises(EngineError, match=f"no engine can serve this model here; {name}: .*{what}"):
        check_engine(artifact, name, threads=1, max_batch_size=8)


@pytest.mark.parametrize("engine", ENGINES.values())
def test_without_a_gpu_it_is_unavailable(artifact, engine):
    with pytest.raises(EngineUnavailable):
        engine.precisions(artifact)


@pytest.mark.parametrize("engine", ENGINES.values())
def test_it_never_falls_to_the_cpu(artifact, engine, capfd):
    """With onnxruntime-gpu, ONNX Runtime itself would: its session opens, on the CPU."""
    with pytest.raises(EngineError, match=r"cannot start its|did not start its|has no") as caught:
        engine(artifact, "fp32", threads=1, max_batch_size=8)
    if GPU_BUILD:
        assert "cannot open shared object file" in str(caught.value)
        assert "Falling back" not in capfd.readouterr().out


@pytest.mark.skipif(not GPU_BUILD, reason="needs onnxruntime-gpu")
def test_that_onnx_runtime_would_fall_to_the_cpu(artifact):
    session = onnxruntime.InferenceSession(artifact.graph_path, providers=[CUDA])
    assert session.get_providers() == ["CPUExecutionProvider"]


@pytest.mark.parametrize("engine", ENGINES.values())
@pytest.mark.parametrize("device", [0, 3])
def test_every_provider_gets_the_device(artifact, engine, device, monkeypatch):
    opened = []
    monkeypatch.setattr("dhvt.engines.onnx_gpu.open_session", lambda artifact, threads, providers: opened.extend(providers))
    engine(artifact, "fp32", threads=1, max_batch_size=8, device=device)
    assert {name for name, _ in opened} <= {CUDA, TENSORRT}
    assert [options["device_id"] for _, options in opened] == [str(device)] * len(opened)


def test_without_a_safe_folder_tensorrt_keeps_no_engines(artifact, monkeypatch, caplog):
    opened = []
    monkeypatch.setattr("dhvt.engines.onnx_gpu.open_session", lambda artifact, threads, providers: opened.extend(providers))
    monkeypatch.setattr("dhvt.engines.onnx_gpu.cache_folder", lambda name: None)
    OnnxRuntimeTensorRTEngine(artifact, "fp32", threads=1, max_batch_size=8)
    assert not any("cache" in name for name in opened[0][1])
    assert "there is no safe folder to keep them; set XDG_CACHE_HOME" in caplog.text


@pytest.mark.parametrize("level", [0, 1, 2])
def test_tensorrt_keeps_its_engines_only_where_nobody_else_can_write(artifact, monkeypatch, tmp_path, caplog, level):
    opened = []
    monkeypatch.setattr("dhvt.engines.onnx_gpu.open_session", lambda artifact, threads, providers: opened.append(providers))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    OnnxRuntimeTensorRTEngine(artifact, "fp32", threads=1, max_batch_size=8)
    folder = Path(opened[0][0][1]["trt_engine_cache_path"])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    [folder, *folder.parents][level].chmod(0o777)
    OnnxRuntimeTensorRTEngine(artifact, "fp32", threads=1, max_batch_size=8)
    assert not any("cache" in name for name in opened[1][0][1])
    assert "there is no safe folder to keep them" in caplog.text


def test_another_precision_is_not_passed_off(artifact):
    for engine in ENGINES.values():
        with pytest.raises(EngineError, match="fp32 only, not in fp16"):
            engine(artifact, "fp16", threads=1, max_batch_size=8)


def test_nodes_that_strayed_to_the_cpu_are_named(artifact):
    """The assignment that ONNX Runtime reports of a real session."""
    session = open_session(artifact, 1, [("CPUExecutionProvider", {})])
    groups = session.get_provider_graph_assignment_info()
    assigned = [(group.ep_name, node.op_type) for group in groups for node in group.get_nodes()]
    assert {"Conv", "MatMul", "Shape"} <= {op for _, op in assigned}
    assert strayed_ops("CPUExecutionProvider", assigned) == []
    strayed = strayed_ops(CUDA, assigned)
    assert "Conv by CPUExecutionProvider" in strayed
    assert not any(entry.startswith("Shape ") for entry in strayed)
    shapes = [(where if op == "Shape" else CUDA, op) for where, op in assigned]
    assert strayed_ops(CUDA, shapes) == []
    assert strayed_ops(TENSORRT, shapes) != []


@pytest.mark.skipif(not GPU_BUILD, reason="needs onnxruntime-gpu")
def test_auto_serves_on_the_cpu_and_says_why(artifact, caplog):
    choice = open_engine(artifact, threads=1)
    assert choice.engine.name in ("openvino", "onnxruntime")
    reasons = [reason for reason in choice.rejected if reason.startswith("onnxruntime-")]
    assert [reason.partition(":")[0] for reason in reasons] == ["onnxruntime-tensorrt", "onnxruntime-cuda"]
    assert all("no NVIDIA driver here" in reason for reason in reasons)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
