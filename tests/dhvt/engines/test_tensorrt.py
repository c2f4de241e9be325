"""TensorRT on a machine without a GPU: which engines fit it, and the messages about those that do not."""

import logging
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from dhvt.artifact import Variant, load_artifact, write_card
from dhvt.engines import all_candidates, check_engine, open_engine
from dhvt.engines.compatibility import EngineEntry, Machine, require_fit, tuning_warning
from dhvt.engines.tensorrt import TensorRTEngine
from dhvt.engines.tensorrt_runtime import CudaEngine, ExecutionContext, make_log, warn_of_old_bindings
from dhvt.errors import EngineError, EngineUnavailable
from dhvt.hardware.gpus import Gpu, read_driver
from tests.serving.test_startup import serve

GPU = Gpu(name="NVIDIA L4", compute_capability="8.9")
LINUX = "Linux x86_64"
HERE = Machine(platform=LINUX, version="11.4.0.106", gpu=GPU)
ENTRY = {
    "flavour": "tensorrt",
    "version": "11.4.0.106",
    "platform": LINUX,
    "compute_capabilities": ["8.9"],
    "profile": {"min_batch_size": 1, "opt_batch_size": 4, "max_batch_size": 8},
    "onnx_sha256": "a" * 64,
}
RTX = {"flavour": "tensorrt_rtx", "compute_capabilities": []}


def with_engine(card, hardware):
    return card.with_variant(Variant(format="tensorrt", precision="fp16", files=("model.engine",), hardware=hardware))


@pytest.fixture
def card(artifact_path):
    card = load_artifact(artifact_path).card
    return replace(card, files={"model.onnx": "a" * 64, "model.engine": "b" * 64})


@pytest.mark.parametrize(
    ("entry", "machine"),
    [
        ({}, {}),
        ({"compute_capabilities": ["8.6", "8.9"]}, {}),
        (RTX, {}),
        (RTX, {"gpu": replace(GPU, compute_capability="12.0")}),
        (RTX, {"platform": "Windows AMD64"}),
        (RTX | {"compute_capabilities": ["7.5"]}, {"gpu": replace(GPU, compute_capability="7.5")}),
    ],
)
def test_an_engine_that_fits(card, entry, machine):
    card = with_engine(card, ENTRY | entry)
    require_fit(EngineEntry.from_card(card), replace(HERE, **machine), card)


@pytest.mark.parametrize(
    ("entry", "machine", "message"),
    [
        ({"onnx_sha256": "c" * 64}, {}, "built from another model.onnx than the model's; build it again here"),
        ({}, {"version": None}, r"needs tensorrt==11\.4\.0\.106, which is not installed; pip install tensorrt==11"),
        (RTX | {"version": "1.7"}, {"version": None}, r"pip install tensorrt-rtx==1\.7"),
        ({}, {"gpu": "no CUDA-capable device"}, "needs an NVIDIA GPU and its driver; CUDA says no CUDA-capable device"),
        ({"version": "10.9.0"}, {}, r"for tensorrt 10\.9\.0, here is 11\.4\.0\.106; .* --target tensorrt --flavour tensorrt$"),
        ({"compute_capabilities": ["9.0"]}, {}, r"for compute capability 9\.0, NVIDIA L4 has 8\.9"),
        ({"compute_capabilities": []}, {}, "for compute capability"),
        (RTX, {"gpu": replace(GPU, compute_capability="7.5")}, r"capability 8\.0 or .* or 12\.1, NVIDIA L4 has 7\.5"),
        *(
            (
                RTX | {"compute_capabilities": built_for},
                {"gpu": replace(GPU, compute_capability=capability)},
                rf"supports .* 7\.5, 8\.0, 8\.6, 8\.9, 12\.0, 12\.1, NVIDIA L4 has {capability}; .* tensorrt$",
            )
            for capability in ("9.0", "10.0", "11.0")
            for built_for in ([], [capability])
        ),
        ({"platform": "Windows AMD64"}, {}, "for Windows AMD64, here is Linux x86_64"),
        (
            {"version": "10.9.0", "compute_capabilities": ["9.0"]},
            {},
            r"tensorrt 10\.9\.0, here is 11\.4\.0\.106; for compute capability 9\.0",
        ),
    ],
)
def test_what_does_not_fit_is_named(card, entry, machine, message):
    card = with_engine(card, ENTRY | entry)
    with pytest.raises(EngineError, match=message):
        require_fit(EngineEntry.from_card(card), replace(HERE, **machine), card)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"flavour": "tensorrt_lite"}, "names 'tensorrt_lite' as its engine's flavour"),
        ({"profile": {"min_batch_size": 9, "max_batch_size": 8}}, "batches of 9 to 8"),
        ({"profile": {}}, r"lacks a fact of its engine \('min_batch_size'\); repeat dhvt export ckpt.pt --target tensorrt"),
    ],
)
def test_an_invalid_entry(card, entry, message):
    with pytest.raises(EngineError, match=message):
        EngineEntry.from_card(with_engine(card, ENTRY | entry))


def test_an_artifact_without_an_engine_is_unavailable(artifact_path):
    artifact = load_artifact(artifact_path)
    with pytest.raises(EngineUnavailable, match=r"has no TensorRT engine; dhvt export ckpt.pt --target tensorrt adds one"):
        TensorRTEngine.precisions(artifact)
    assert not any(name.startswith("tensorrt") for name in all_candidates(artifact))


@pytest.fixture(scope="session")
def rtx_path(checkpoint, artifact_path, tmp_path_factory):
    """The small model with an engine for RTX GPUs."""
    pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")
    from export.pipeline import export_model
    from export.settings import TensorRTSettings

    path = shutil.copytree(artifact_path, tmp_path_factory.mktemp("rtx") / "artifact")
    settings = TensorRTSettings(opt_batch_size=4, max_batch_size=8, flavour="tensorrt_rtx")
    return export_model(checkpoint, path, ["tensorrt"], settings={"tensorrt": settings}).path


@pytest.fixture
def rtx(rtx_path):
    return load_artifact(rtx_path)


without_gpu = pytest.mark.skipif(read_driver() is not None, reason="there is an NVIDIA driver here")


@without_gpu
def test_auto_goes_on_without_a_gpu_and_gives_the_reason(rtx, caplog):
    choice = open_engine(rtx, threads=1)
    assert choice.engine.name in ("openvino", "onnxruntime")
    assert choice.rejected[0].startswith("tensorrt:fp16: the engine needs an NVIDIA GPU and its driver; CUDA says ")
    assert [reason.partition(":")[0] for reason in choice.rejected[1:3]] == ["onnxruntime-tensorrt", "onnxruntime-cuda"]
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert warnings[0].startswith("engine tensorrt:fp16 does not serve: ")


@without_gpu
def test_auto_without_an_engine_file_warns_of_nothing(artifact_path, caplog):
    choice = open_engine(load_artifact(artifact_path), threads=1)
    assert choice.rejected[0].startswith("tensorrt: the model has no TensorRT engine")
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@without_gpu
@pytest.mark.parametrize("name", ["tensorrt", "tensorrt:fp16"])
def test_asked_for_by_name_it_stops_the_start_with_one_line(rtx, name):
    result = serve(DHVT_MODEL=str(rtx.path), DHVT_ENGINE=name)
    assert result.returncode == 1
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith("dhvt: no engine can serve this model here; tensorrt:fp16: the engine needs an NVIDIA GPU")
    assert "Traceback" not in result.stderr


def test_asked_for_without_an_engine_it_says_how_to_build_one(artifact_path):
    with pytest.raises(EngineError, match=r"no engine can .*; tensorrt: the model has no TensorRT engine; dhvt export"):
        check_engine(load_artifact(artifact_path), "tensorrt", threads=1, max_batch_size=8)


def test_another_precision_is_not_passed_off(rtx):
    with pytest.raises(EngineError, match=r"engine is in fp16, not bf16; dhvt export .* --precision bf16"):
        TensorRTEngine(rtx, "bf16", threads=1, max_batch_size=8)


def test_an_engine_of_another_version_is_refused(rtx_path, tmp_path):
    path = shutil.copytree(rtx_path, tmp_path / "artifact")
    card = load_artifact(path).card
    write_card(path, with_engine(card, card.find_variant(format="tensorrt").hardware | {"version": "1.0.0.1"}))
    with pytest.raises(EngineError, match=r"CUDA says|tensorrt_rtx 1\.0\.0\.1, here is"):
        TensorRTEngine(load_artifact(path), "fp16", threads=1, max_batch_size=8)


def test_what_is_used_of_tensorrt_is_there():
    trt = pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")
    for protocol, real in ((CudaEngine, trt.ICudaEngine), (ExecutionContext, trt.IExecutionContext)):
        used = {name for name in vars(protocol) if not name.startswith("_")}
        assert used
        assert used <= set(dir(real))
    assert trt.DynamicShapesKernelSpecializationStrategy.NONE
    assert hasattr(trt.IRuntimeConfig, "dynamic_shapes_kernel_specialization_strategy")
    assert trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    assert hasattr(trt.IRuntimeConfig, "cuda_graph_strategy")
    assert trt.__version__


@without_gpu
def test_cuda_says_what_failed():
    cuda = pytest.importorskip("dhvt.engines.cuda", reason="needs pip install cuda-bindings")
    assert "cudaGetDeviceProperties: " in cuda.find_gpu()
    with pytest.raises(EngineError, match=r"cudaSetDevice: .* \(cudaError"):
        cuda.use_device()
    with pytest.raises(EngineError, match=r"cudaMallocHost|cudaStreamCreate"):
        cuda.Buffer((4, 3), np.float32, cuda.Stream())


@pytest.mark.parametrize(
    ("entry", "warned"),
    [
        ({"gpu": "NVIDIA GeForce RTX 4090"}, True),
        ({"gpu": "NVIDIA L4"}, False),
        ({"gpu": None}, False),
        ({}, False),
        (RTX | {"gpu": "NVIDIA GeForce RTX 4090"}, False),
    ],
)
def test_an_engine_tuned_for_another_gpu_is_warned_of(card, entry, warned):
    """An L4 and a 4090 have the same compute capability."""
    read = EngineEntry.from_card(with_engine(card, ENTRY | entry))
    warning = tuning_warning(read, HERE)
    assert (warning is not None) == warned
    if warning is not None:
        assert warning.startswith("the engine was tuned on NVIDIA GeForce RTX 4090 and runs on NVIDIA L4")


@pytest.mark.parametrize(
    ("installed", "warned"), [("12.9.0", True), ("12.8.0", True), ("12.9.1", False), ("13.0.0", False), ("13.1.0rc1", False)]
)
def test_old_cuda_bindings_are_warned_of(installed, warned, monkeypatch, caplog):
    monkeypatch.setattr("dhvt.engines.tensorrt_runtime.version", lambda package: installed)
    warn_of_old_bindings()
    assert (f"cuda-bindings {installed} lets no other thread run while it waits" in caplog.text) == warned


def test_tensorrts_errors_reach_the_log_and_the_message(caplog):
    """All of them: the last is the least specific."""
    trt = pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")
    log = make_log(trt)
    assert log.take_errors() == "it gives no reason"
    runtime = trt.Runtime(log)
    assert runtime.deserialize_cuda_engine(b"no engine" * 1000) is None
    words = log.take_errors()
    assert "Serialization assertion" in words
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert errors
    assert words == "; ".join(error.removeprefix("tensorrt_rtx: ") for error in errors)
    assert log.take_errors() == "it gives no reason"


def test_nothing_needs_openvino_until_it_runs():
    code = "import sys; sys.modules['openvino'] = None; import dhvt.classifier, dhvt.cli.verify, tests.gpu.test_onnx_gpu"
    code += ", tests.gpu.test_tensorrt_engine; from dhvt.engines import tensorrt, onnx, onnx_gpu, verify"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
