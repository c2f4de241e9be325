import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from dhvt.artifact import load_artifact
from dhvt.data.preprocess import preprocess_image
from dhvt.engines import ENGINES, open_engine
from dhvt.engines.cache import cache_folder
from dhvt.errors import EngineError
from dhvt.hardware.cpus import _cgroup_quota, available_cpus

CPU_ENGINES = ["openvino", "onnxruntime"]


@pytest.fixture
def artifact(artifact_path):
    return load_artifact(artifact_path)


@pytest.mark.parametrize("name", CPU_ENGINES)
def test_an_engine_gives_pytorchs_logits(artifact, name):
    engine = open_engine(artifact, name, threads=1).engine
    inputs = np.stack([preprocess_image(image, artifact.card.preprocess) for image in artifact.card.golden.encoded()])
    atol = 1e-3 if engine.precision == "fp32" else 0.1
    for batch in (1, 2, 3, 4):
        assert np.allclose(engine.predict(inputs[:batch]), artifact.card.golden.expected()[:batch], atol=atol)


@pytest.mark.parametrize("name", CPU_ENGINES)
def test_an_answer_is_the_callers_own(artifact, name):
    engine = open_engine(artifact, name, threads=1).engine
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32, 3), dtype=np.uint8)
    first = engine.predict(images[0])
    kept = first.copy()
    engine.predict(images[1])
    assert np.array_equal(first, kept)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", CPU_ENGINES)
def test_a_batch_of_any_size_gives_each_image_its_own_logits(artifact, name, threads):
    engine = open_engine(artifact, f"{name}:fp32", threads=threads).engine
    images = np.random.default_rng(0).integers(0, 256, (33, 32, 32, 3), dtype=np.uint8)
    alone = np.concatenate([engine.predict(image[None]) for image in images])
    for count in (*range(2, 15), 33):
        assert np.allclose(engine.predict(images[:count]), alone[:count], atol=1e-3), count


@pytest.mark.parametrize("name", CPU_ENGINES)
def test_calls_at_once_get_their_own_answers(artifact, name):
    engine = open_engine(artifact, name, threads=2).engine
    batches = np.random.default_rng(0).integers(0, 256, (40, 5, 32, 32, 3), dtype=np.uint8)
    expected = [engine.predict(batch) for batch in batches]
    with ThreadPoolExecutor(engine.concurrency) as pool:
        for got, wanted in zip(pool.map(engine.predict, batches), expected, strict=True):
            assert np.allclose(got, wanted, atol=1e-3)


@pytest.mark.parametrize("name", ["auto", *CPU_ENGINES])
def test_an_engine_that_computes_something_else_does_not_serve(artifact, name):
    golden = replace(artifact.card.golden, logits=(artifact.card.golden.expected() + 0.5).tolist())
    other = replace(artifact, card=replace(artifact.card, golden=golden))
    with pytest.raises(EngineError, match=r"self-test at batch 1 is off by 0\.5"):
        open_engine(other, name, threads=1)


def test_an_engine_that_is_not_there_is_named(artifact, monkeypatch):
    with pytest.raises(EngineError, match="choose auto or one of tensorrt"):
        open_engine(artifact, "warp", threads=1)
    monkeypatch.setattr("dhvt.engines.registry.find_spec", lambda package: None if package == "openvino" else object())
    with pytest.raises(EngineError, match="pip install openvino"):
        open_engine(artifact, "openvino", threads=1)
    assert open_engine(artifact, threads=1).engine.name == "onnxruntime"


def test_a_runtime_that_cannot_be_imported_does_not_serve(artifact, monkeypatch, tmp_path):
    """As one that lacks a library of the system."""
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text("raise ImportError('libtbb.so.12 is missing')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "openvino" or name.endswith("engines.openvino")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    choice = open_engine(artifact, "auto", threads=1)
    assert choice.engine.name == "onnxruntime"
    assert any("cannot be imported (ImportError: libtbb.so.12 is missing)" in reason for reason in choice.rejected)
    with pytest.raises(EngineError, match="cannot be imported"):
        open_engine(artifact, "openvino", threads=1)


@pytest.mark.parametrize(("text", "quota"), [("150000 100000", 1.5), ("max 100000", None), ("nonsense", None)])
def test_cgroup_quota(tmp_path, text, quota):
    (tmp_path / "cpu.max").write_text(text)
    assert _cgroup_quota(tmp_path) == quota
    assert available_cpus() >= 1


@pytest.mark.parametrize(
    ("groups", "membership", "quota"),
    [
        ({"system.slice/x.service/cpu.max": "200000 100000"}, "0::/system.slice/x.service\n", 2.0),
        ({"a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"}, "0::/a/b\n", 1.5),
        ({"cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "100000"}, "4:memory:/x\n3:cpu,cpuacct:/a\n", 0.5),
        ({"cpu.max": "300000 100000", "other/cpu.max": "100000 100000"}, "0::/of/the/host\n", 3.0),
    ],
)
def test_the_smallest_cgroup_quota_from_ones_own_group_upwards(tmp_path, groups, membership, quota):
    for name, text in groups.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "membership").write_text(membership)
    assert _cgroup_quota(tmp_path / "cgroup", tmp_path / "membership") == quota


@pytest.fixture
def crashing_openvino(tmp_path, monkeypatch):
    """Children that try OpenVINO die of an arithmetic fault, as some versions did on some processors."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "if 'dhvt.engines.probe' in sys.orig_argv and any('openvino' in word for word in sys.orig_argv):\n"
        "    os.kill(os.getpid(), signal.SIGFPE)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_runtime_that_takes_its_process_down_does_not_serve(artifact, crashing_openvino, caplog):
    assert open_engine(artifact, threads=1).engine.name == "onnxruntime"
    assert "openvino:fp32 does not serve: its process died of SIGFPE" in caplog.text
    with pytest.raises(EngineError, match="died of SIGFPE"):
        open_engine(artifact, "openvino", threads=1)


def test_that_an_engine_passed_is_remembered(artifact, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    open_engine(artifact, "onnxruntime", threads=1)

    def no_child(*args, **options):
        raise AssertionError("it was tried again")

    monkeypatch.setattr("dhvt.engines.registry.subprocess.run", no_child)
    open_engine(artifact, "onnxruntime", threads=1)
    with pytest.raises(AssertionError, match="tried again"):
        open_engine(artifact, "onnxruntime", threads=2)
    monkeypatch.setenv("LD_PRELOAD", "libanother-allocator.so")
    with pytest.raises(AssertionError, match="tried again"):
        open_engine(artifact, "onnxruntime", threads=1)


@pytest.fixture
def trial_does(tmp_path, monkeypatch):
    """Makes every trial do something else, counted in ``trials``."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    log = tmp_path / "trials"
    log.touch()

    def use(code):
        (tmp_path / "sitecustomize.py").write_text(
            "import os, signal, sys, time\n"
            "if 'dhvt.engines.probe' in sys.orig_argv:\n"
            f"    with open({str(log)!r}, 'a') as file: file.write('.')\n"
            f"    {code}\n"
        )
        return log

    return use


def reasons(artifact):
    with pytest.raises(EngineError) as caught:
        open_engine(artifact, "onnxruntime", threads=1)
    return str(caught.value)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "died of SIGSEGV"),
        ("print('self-test at batch 1 is off by 3'); sys.stdout.flush(); os._exit(4)", "is off by 3"),
        ("time.sleep(60)", "gave no answer in 1 s"),
    ],
)
def test_that_an_engine_failed_is_remembered_until_the_folder_is_deleted(artifact, trial_does, monkeypatch, code, reason):
    monkeypatch.setitem(ENGINES, "onnxruntime", replace(ENGINES["onnxruntime"], timeout_s=1))
    trials = trial_does(code)
    first = reasons(artifact)
    assert reason in first
    assert "remembered" not in first
    folder = cache_folder("engines")
    assert f"{reason} (remembered; delete {folder} to try again)" in reasons(artifact)
    assert trials.read_text() == "."
    shutil.rmtree(folder)
    assert "remembered" not in reasons(artifact)
    assert trials.read_text() == ".."


@pytest.mark.parametrize(
    "code",
    [
        "os.kill(os.getpid(), signal.SIGKILL)",  # by the kernel that is out of memory
        "print('terminate called: std::bad_alloc', file=sys.stderr, flush=True); os.abort()",
        "print('the engine needs an NVIDIA GPU and its driver', flush=True); os._exit(3)",
        "print('cudaMalloc: out of memory', flush=True); os._exit(1)",
    ],
)
def test_a_failure_of_the_moment_is_tried_again(artifact, trial_does, code):
    trials = trial_does(code)
    assert reasons(artifact) == reasons(artifact)
    assert trials.read_text() == ".."


def test_where_nothing_can_be_remembered_an_engine_serves_all_the_same(artifact, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert open_engine(artifact, "onnxruntime", threads=1).engine.name == "onnxruntime"


def test_a_batch_is_shared_out_without_changing_the_answers(artifact):
    images = np.random.default_rng(0).integers(0, 256, (13, 32, 32, 3), dtype=np.uint8)
    engine = open_engine(artifact, "openvino:fp32", threads=3).engine
    whole = engine.predict(images)
    for size in (1, 2, 3, 12):
        parts = [engine.predict(images[start : start + size]) for start in range(0, 13, size)]
        assert np.allclose(np.concatenate(parts), whole, atol=1e-4)


def test_a_precision_that_cannot_be(artifact):
    for name in ("auto:fp32", "openvino16"):
        with pytest.raises(EngineError, match="no engine"):
            open_engine(artifact, name, threads=1)
    with pytest.raises(EngineError, match="fp32 alone"):
        open_engine(artifact, "onnxruntime:fp8", threads=1)
