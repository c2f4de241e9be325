"""ONNX Runtime's CUDA and TensorRT providers on a GPU."""

import numpy as np
import pytest

from dhvt.artifact import load_artifact
from dhvt.engines import open_engine
from dhvt.engines.cache import cache_folder
from dhvt.engines.onnx_gpu import OnnxRuntimeCUDAEngine, OnnxRuntimeTensorRTEngine
from dhvt.errors import EngineUnavailable

ENGINES = {"onnxruntime-cuda": OnnxRuntimeCUDAEngine, "onnxruntime-tensorrt": OnnxRuntimeTensorRTEngine}


@pytest.fixture(params=ENGINES)
def name(request, artifact_path):
    try:
        ENGINES[request.param].precisions(load_artifact(artifact_path))
    except EngineUnavailable as error:
        pytest.skip(str(error))
    return request.param


def test_it_gives_pytorchs_logits(name, artifact_path):
    artifact = load_artifact(artifact_path)
    choice = open_engine(artifact, name, threads=2, max_batch_size=8)
    assert (choice.engine.name, choice.engine.precision) == (name, "fp32")
    reference = open_engine(artifact, "onnxruntime", threads=2).engine
    images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    for count in (1, 7, 8, 9, 64):
        assert np.allclose(choice.engine.predict(images[:count]), reference.predict(images[:count]), atol=2e-3)


def test_tensorrts_engine_is_kept(artifact_path):
    artifact = load_artifact(artifact_path)
    try:
        OnnxRuntimeTensorRTEngine.precisions(artifact)
    except EngineUnavailable as error:
        pytest.skip(str(error))
    OnnxRuntimeTensorRTEngine(artifact, "fp32", threads=1, max_batch_size=8)
    kept = {path: path.stat().st_mtime_ns for path in cache_folder("onnxruntime-tensorrt").rglob("*.engine")}
    assert kept
    OnnxRuntimeTensorRTEngine(artifact, "fp32", threads=1, max_batch_size=8)
    assert kept == {path: path.stat().st_mtime_ns for path in cache_folder("onnxruntime-tensorrt").rglob("*.engine")}


def test_auto_prefers_the_gpu(artifact_path):
    artifact = load_artifact(artifact_path)
    try:
        OnnxRuntimeCUDAEngine.precisions(artifact)
    except EngineUnavailable as error:
        pytest.skip(str(error))
    assert open_engine(artifact, threads=1, max_batch_size=8).engine.name.startswith("onnxruntime-")
