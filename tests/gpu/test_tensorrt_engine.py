"""An engine built here, in the server's own runner."""

import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from dhvt.artifact import load_artifact, write_card
from dhvt.engines import open_engine
from dhvt.engines.selftest import ATOL
from dhvt.engines.tensorrt import TensorRTEngine
from dhvt.errors import ArtifactError, EngineError

ROOT = Path(__file__).resolve().parents[2]
BATCH_SIZES = (2, 8)  # of the profile


@pytest.fixture(scope="module", params=["tensorrt", "tensorrt_rtx"])
def flavour(request):
    spec = find_spec(request.param)
    if spec is None or spec.origin is None:
        pytest.skip(f"{request.param} is not installed")
    return request.param


@pytest.fixture(scope="module")
def build(flavour, checkpoint, artifact_path, tmp_path_factory):
    """Builds by the command, because one process takes one flavour."""
    from dhvt.model.checkpoint import save_checkpoint

    def run(precision):
        folder = tmp_path_factory.mktemp(f"{flavour}-{precision}")
        save_checkpoint(checkpoint, folder / "ckpt.pt")
        shutil.copytree(artifact_path, folder / "artifact")
        smallest, largest = map(str, BATCH_SIZES)
        sizes = ["--min-batch-size", smallest, "--opt-batch-size", "4", "--max-batch-size", largest]
        command = [sys.executable, "export/to_trt.py", str(folder / "ckpt.pt"), "--precision", precision, "--flavour", flavour]
        result = subprocess.run([*command, *sizes], cwd=ROOT, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        return folder / "artifact"

    return run


@pytest.fixture(scope="module")
def fp16_path(build):
    return build("fp16")


@pytest.fixture
def artifact(fp16_path):
    return load_artifact(fp16_path)


@pytest.fixture
def copy(fp16_path, tmp_path):
    """A copy for a test to damage."""
    return Path(shutil.copytree(fp16_path, tmp_path / "artifact"))


def draw(count):
    return np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_auto_serves_with_it(build, precision):
    artifact = load_artifact(build(precision))
    choice = open_engine(artifact, threads=1, max_batch_size=20)
    assert (choice.engine.name, choice.engine.precision, choice.rejected) == ("tensorrt", precision, ())
    reference = open_engine(artifact, "onnxruntime", threads=1).engine
    images = draw(100)
    assert np.allclose(choice.engine.predict(images), reference.predict(images), atol=2 * ATOL[precision])


def test_the_engine_itself_was_compared_at_export(artifact):
    variant = artifact.find_variant(format="tensorrt")
    (compared,) = (row for row in variant.parity["comparisons"] if row["runtime"] == "tensorrt")
    assert compared["top1_agreement"] >= 0.999
    assert variant.hardware["gpu"]
    assert variant.hardware["driver"]


@pytest.mark.parametrize("count", [1, 2, 3, 8, 9, 17, 64])
def test_batches_outside_the_profile(artifact, count):
    engine = TensorRTEngine(artifact, "fp16", threads=1, max_batch_size=64)
    images = draw(count)
    single = np.concatenate([engine.predict(images[row : row + 1]) for row in range(count)])
    assert np.allclose(engine.predict(images), single, atol=ATOL["fp16"])


def test_cuda_graphs_give_the_logits_of_plain_runs(artifact, flavour, monkeypatch, caplog):
    graphs = TensorRTEngine(artifact, "fp16", threads=1, max_batch_size=8)
    assert "without" not in caplog.text  # a warning that they cannot be recorded
    if flavour == "tensorrt":
        assert sorted(graphs._graphs) == [2, 3, 4]  # from the profile's smallest on
    monkeypatch.setattr("dhvt.engines.tensorrt.LARGEST_GRAPH_BATCH", 0)
    plain = TensorRTEngine(artifact, "fp16", threads=1, max_batch_size=8)
    assert not plain._graphs
    # Sizes in turn and again, so that a recording that reads what another size left behind is found.
    for count in (1, 2, 3, 4, 5, 8, 4, 2, 8, 3, 1, 4):
        for seed in range(3):
            images = np.random.default_rng([seed, count]).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
            assert np.allclose(graphs.predict(images), plain.predict(images), atol=1e-3), (count, seed)


def test_where_no_graph_can_be_recorded_it_runs_without(artifact, flavour, monkeypatch, caplog):
    if flavour != "tensorrt":
        pytest.skip("TensorRT for RTX records by itself")

    def fail(stream, record):
        raise EngineError("cudaStreamEndCapture: not permitted")

    monkeypatch.setattr("dhvt.engines.cuda.Graph", fail)
    engine = TensorRTEngine(artifact, "fp16", threads=1, max_batch_size=8)
    assert "batches of 2 and more run without a CUDA graph: cudaStreamEndCapture: not permitted" in caplog.text
    assert engine.predict(draw(3)).shape == (3, 3)


def test_an_operation_that_cannot_be_recorded_leaves_the_stream_usable():
    from dhvt.engines import cuda

    cuda.use_device()
    stream = cuda.Stream()
    with pytest.raises(EngineError):
        cuda.Graph(stream, stream.wait)  # waiting may not be recorded
    buffer = cuda.Buffer((4,), np.float32, stream)
    buffer.host[:] = 7
    buffer.upload(4)
    buffer.host[:] = 0
    cuda.Graph(stream, lambda: buffer.download(4)).launch()
    stream.wait()
    assert (buffer.host == 7).all()


def test_the_caller_may_keep_the_logits(artifact):
    engine = TensorRTEngine(artifact, "fp16", threads=1, max_batch_size=8)
    first = engine.predict(draw(4))
    kept = first.copy()
    engine.predict(draw(5))
    assert np.array_equal(first, kept)


def test_any_thread_may_call(artifact):
    engine = TensorRTEngine(artifact, "fp16", threads=1, max_batch_size=8)
    images, results = draw(4), []
    for _ in range(4):
        thread = threading.Thread(target=lambda: results.append(engine.predict(images)))
        thread.start()
        thread.join()
    assert len(results) == 4
    assert all(np.allclose(logits, results[0], atol=1e-3) for logits in results)


def test_two_engines_in_one_process(artifact):
    engines = [TensorRTEngine(artifact, "fp16", threads=1, max_batch_size=8) for _ in range(2)]
    images = draw(5)
    results = [engine.predict(images) for engine in (*engines, *engines)]
    assert all(np.allclose(logits, results[0], atol=1e-3) for logits in results)


def test_a_changed_engine_is_refused(copy):
    artifact = load_artifact(copy)
    path = copy / "model.engine"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match=r"model\.engine is not the exported file"):
        load_artifact(copy)
    with pytest.raises(EngineError, match="SHA-256 differs"):  # changed after the artifact was loaded
        TensorRTEngine(artifact, "fp16", threads=1, max_batch_size=8)


def edit_entry(path, **values):
    card = load_artifact(path).card
    variant = card.find_variant(format="tensorrt")
    write_card(path, card.with_variant(replace(variant, hardware=variant.hardware | values)))
    return load_artifact(path)


def test_an_engine_of_another_version_is_refused(copy, flavour):
    artifact = edit_entry(copy, version="1.2.3.4")
    with pytest.raises(EngineError, match=rf"for {flavour} 1\.2\.3\.4, here is .* --flavour {flavour}$"):
        TensorRTEngine(artifact, "fp16", threads=1, max_batch_size=8)


def test_an_engine_for_another_gpu_is_refused(copy):
    artifact = edit_entry(copy, compute_capabilities=["1.0"])
    with pytest.raises(EngineError, match=r"for compute capability 1\.0, .* has \d+\.\d"):
        TensorRTEngine(artifact, "fp16", threads=1, max_batch_size=8)
    choice = open_engine(artifact, threads=1, max_batch_size=8)
    assert choice.engine.name != "tensorrt"
    assert choice.rejected[0].startswith("tensorrt:fp16: the engine was built for compute capability 1.0")


def test_a_profile_that_is_not_the_engines_is_refused(copy):
    profile = {"min_batch_size": 1, "opt_batch_size": 4, "max_batch_size": 64}
    artifact = edit_entry(copy, profile=profile)
    with pytest.raises(EngineError, match=r"takes batches of 2 to 8, model\.json says 1 to 64"):
        TensorRTEngine(artifact, "fp16", threads=1, max_batch_size=64)


def test_a_file_that_is_no_engine_is_refused_with_tensorrts_words(copy):
    card = load_artifact(copy).card
    (copy / "model.engine").write_bytes(b"no engine" * 1000)
    write_card(copy, card)  # records the new hash
    artifact = load_artifact(copy)
    with pytest.raises(EngineError, match=r"cannot load model\.engine: (?!it does not say why)"):
        TensorRTEngine(artifact, "fp16", threads=1, max_batch_size=8)


def test_it_is_served(artifact, tmp_path):
    import httpx

    from tests.conftest import draw as draw_image
    from tests.conftest import encode
    from tests.serving.conftest import serving

    with serving(tmp_path / "log", DHVT_MODEL=str(artifact.path), DHVT_ENGINE="tensorrt") as url:
        answer = httpx.post(f"{url}/classify", files={"image": ("a.png", encode(draw_image(0, 1)))}, timeout=30)
    assert answer.status_code == 200
    assert "with tensorrt in fp16" in (tmp_path / "log").read_text()
