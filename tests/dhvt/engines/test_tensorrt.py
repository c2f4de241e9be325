"""TensorRT on a machine without a GPU: what fits, what does not, and what is said about it."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from dhvt.artifact import Variant, load_artifact, write_card
from dhvt.engines import all_candidates, check_engine, open_engine
from dhvt.engines.compatibility import EngineEntry, Machine, require_fit
from dhvt.engines.tensorrt import CudaEngine, ExecutionContext, TensorRTEngine
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
        ({"version": "10.9.0"}, {}, r"for tensorrt 10\.9\.0, here is 11\.4\.0\.106; .* ckpt\.pt --flavour tensorrt$"),
        ({"compute_capabilities": ["9.0"]}, {}, r"for compute capability 9\.0, NVIDIA L4 has 8\.9"),
        ({"compute_capabilities": []}, {}, "for compute capability"),
        (RTX, {"gpu": replace(GPU, compute_capability="7.5")}, r"for compute capability 8\.0 and later, NVIDIA L4 has 7\.5"),
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
        ({"profile": {}}, r"does not say enough of its engine \('min_batch_size'\); run export/to_trt.py again"),
    ],
)
def test_an_entry_that_cannot_be(card, entry, message):
    with pytest.raises(EngineError, match=message):
        EngineEntry.from_card(with_engine(card, ENTRY | entry))


def test_an_artifact_without_an_engine_is_no_fault(artifact_path):
    artifact = load_artifact(artifact_path)
    with pytest.raises(EngineUnavailable, match=r"has no TensorRT engine; python export/to_trt.py ckpt.pt adds one"):
        TensorRTEngine.precisions(artifact)
    assert not any(name.startswith("tensorrt") for name in all_candidates(artifact))


@pytest.fixture(scope="session")
def rtx_path(checkpoint, artifact_path, tmp_path_factory):
    """The small model with an engine for RTX GPUs."""
    pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")
    from export.to_trt import Profile, export_trt

    path = shutil.copytree(artifact_path, tmp_path_factory.mktemp("rtx") / "artifact")
    profile = Profile(opt_batch_size=4, max_batch_size=8)
    return export_trt(checkpoint, path, "fp16", profile, flavour="tensorrt_rtx", progress=False).path


@pytest.fixture
def rtx(rtx_path):
    return load_artifact(rtx_path)


without_gpu = pytest.mark.skipif(read_driver() is not None, reason="there is an NVIDIA driver here")


@without_gpu
def test_auto_goes_on_without_a_gpu_and_says_why(rtx, caplog):
    choice = open_engine(rtx, threads=1)
    assert choice.engine.name in ("openvino", "onnxruntime")
    assert choice.rejected[0].startswith("tensorrt:fp16: the engine needs an NVIDIA GPU and its driver; CUDA says ")
    assert [reason.partition(":")[0] for reason in choice.rejected[1:3]] == ["onnxruntime-tensorrt", "onnxruntime-cuda"]
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert warnings[0].startswith("engine tensorrt:fp16 does not serve: ")


@without_gpu
def test_where_nothing_is_amiss_nothing_is_warned_of(artifact_path, caplog):
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
    with pytest.raises(EngineError, match=r"no engine can .*; tensorrt: the model has no TensorRT engine; python export/"):
        check_engine(load_artifact(artifact_path), "tensorrt", threads=1, max_batch_size=8)


def test_another_precision_is_not_passed_off(rtx):
    with pytest.raises(EngineError, match=r"engine is in fp16, not bf16; python export/to_trt\.py ckpt\.pt --precision bf16"):
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
