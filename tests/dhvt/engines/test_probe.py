"""Probes of engines in processes of their own, and which of their results are remembered."""

import os
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

import dhvt
from dhvt.artifact import GRAPH_NAME, load_artifact, write_card
from dhvt.engines import ENGINES, EngineOptions, open_engine
from dhvt.engines.cache import cache_folder, code_digest
from dhvt.engines.probe import probe, recall, recall_compiled, result_file
from dhvt.engines.probe_cache import ProbeResult, write_result
from dhvt.engines.registry import build_engine
from dhvt.engines.selection import measure_engines
from dhvt.engines.speed import Speed
from dhvt.errors import EngineError, ProbeStopped


@pytest.fixture
def artifact(artifact_path):
    return load_artifact(artifact_path)


@pytest.fixture
def crashing_openvino(tmp_path, monkeypatch):
    """Children that try OpenVINO die of an arithmetic fault, as some versions did on some processors."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "if 'dhvt.engines.probe_process' in sys.orig_argv and any('openvino' in word for word in sys.orig_argv):\n"
        "    os.kill(os.getpid(), signal.SIGFPE)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_runtime_that_crashes_its_process_does_not_serve(artifact, crashing_openvino, caplog):
    assert open_engine(artifact, threads=1).engine.name == "onnxruntime"
    assert "openvino:fp32 does not serve: its process died of SIGFPE" in caplog.text
    with pytest.raises(EngineError, match="died of SIGFPE"):
        open_engine(artifact, "openvino", threads=1)


def test_that_an_engine_passed_is_remembered(artifact, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    open_engine(artifact, "onnxruntime", threads=1)

    def no_child(*args, **options):
        raise AssertionError("it was tried again")

    monkeypatch.setattr("dhvt.engines.probe.subprocess.run", no_child)
    open_engine(artifact, "onnxruntime", threads=1)
    with pytest.raises(AssertionError, match="tried again"):
        open_engine(artifact, "onnxruntime", threads=2)
    monkeypatch.setenv("LD_PRELOAD", "libanother-allocator.so")
    with pytest.raises(AssertionError, match="tried again"):
        open_engine(artifact, "onnxruntime", threads=1)


@pytest.fixture
def probe_does(tmp_path, monkeypatch):
    """Makes every probe do something else, counted in ``probes``."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    log = tmp_path / "probes"
    log.touch()

    def use(code):
        (tmp_path / "sitecustomize.py").write_text(
            "import os, signal, sys, time\n"
            "if 'dhvt.engines.probe_process' in sys.orig_argv:\n"
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
    ],
)
def test_a_failure_is_remembered_until_the_folder_is_deleted(artifact, probe_does, code, reason):
    probes = probe_does(code)
    first = reasons(artifact)
    assert reason in first
    assert "remembered" not in first
    folder = cache_folder("engines")
    assert f"{reason} (remembered for a day; delete {folder} to try again)" in reasons(artifact)
    assert probes.read_text() == "."
    shutil.rmtree(folder)
    assert "remembered" not in reasons(artifact)
    assert probes.read_text() == ".."


@pytest.mark.parametrize(
    "code",
    [
        "os.kill(os.getpid(), signal.SIGKILL)",  # by the kernel that is out of memory
        "print('terminate called: std::bad_alloc', file=sys.stderr, flush=True); os.abort()",
        "print('std::system_error: Resource temporarily unavailable', file=sys.stderr, flush=True); os.abort()",
        "time.sleep(60)",
        "print('the engine needs an NVIDIA GPU and its driver', flush=True); os._exit(3)",
        "print('cudaMalloc: out of memory', flush=True); os._exit(1)",
    ],
)
def test_a_failure_that_may_pass_is_tried_again(artifact, probe_does, monkeypatch, code):
    monkeypatch.setitem(ENGINES, "onnxruntime", replace(ENGINES["onnxruntime"], timeout_s=2))
    probes = probe_does(code)
    assert reasons(artifact) == reasons(artifact)
    assert probes.read_text() == ".."


def replace_graph(folder):
    """Another model of the same logits in the folder."""
    card = load_artifact(folder).card
    graph = onnx.load(folder / GRAPH_NAME)
    graph.doc_string = "another"
    onnx.save(graph, folder / GRAPH_NAME)
    write_card(folder, card)


@pytest.mark.parametrize("candidate", ["onnxruntime:fp32", "openvino:fp32"])
def test_a_model_that_took_the_place_of_another_is_not_tested_for_it(artifact_copy, candidate, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    artifact, options = load_artifact(artifact_copy), EngineOptions(threads=1, max_batch_size=4)
    kept = shutil.copytree(artifact_copy, tmp_path / "kept")
    replace_graph(artifact_copy)
    with pytest.raises(EngineError, match="was replaced before the engine was tested"):
        probe(artifact, candidate, options)
    assert recall(artifact, candidate, options) is None
    assert recall_compiled(artifact, candidate, options) is None
    with pytest.raises(EngineError, match="was replaced while the engine was built"):
        build_engine(artifact, candidate, options)
    shutil.rmtree(artifact_copy)
    kept.rename(artifact_copy)
    probe(artifact, candidate, options)
    assert recall(artifact, candidate, options) is not None


def test_a_probe_that_is_told_to_stop_ends_the_search(artifact, probe_does):
    probes = probe_does("os.kill(os.getpid(), signal.SIGTERM)")
    with pytest.raises(ProbeStopped, match="was stopped"):
        open_engine(artifact, threads=1)
    assert probes.read_text() == "."


def test_bytes_that_are_no_text_do_not_end_the_search(artifact, probe_does):
    probe_does("os.write(2, bytes([0xff, 0xfe])); os.write(1, bytes([0xff])); os._exit(1)")
    with pytest.raises(EngineError, match="no engine can serve this model here"):
        open_engine(artifact, threads=1)


def test_without_a_cache_an_engine_serves(artifact, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert open_engine(artifact, "onnxruntime", threads=1).engine.name == "onnxruntime"


@pytest.mark.parametrize(("age_h", "probes_after"), [(23, "."), (25, "..")])
def test_a_failure_is_forgotten_after_a_day(artifact, probe_does, age_h, probes_after):
    probes = probe_does("os.kill(os.getpid(), signal.SIGSEGV)")
    reasons(artifact)
    (result,) = cache_folder("engines").iterdir()
    written = result.stat().st_mtime - age_h * 3600
    os.utime(result, (written, written))
    assert "died of SIGSEGV" in reasons(artifact)
    assert probes.read_text() == probes_after


@pytest.mark.parametrize(("age_h", "busy", "known"), [(23, True, True), (25, True, False), (25, False, True)])
def test_a_speed_from_a_busy_machine_is_forgotten_after_a_day(artifact, age_h, busy, known):
    result = result_file(artifact, "onnxruntime:fp32", OPTIONS)
    write_result(result, ProbeResult(speed=Speed(images_per_s=8, latency_ms=400, busy=busy)))
    written = result.stat().st_mtime - age_h * 3600
    os.utime(result, (written, written))
    remembered = recall(artifact, "onnxruntime:fp32", OPTIONS)
    assert remembered.failure is None
    assert (remembered.speed is not None) is known


def test_results_of_other_code_are_not_used(artifact, probe_does, monkeypatch, tmp_path):
    probes = probe_does("os.kill(os.getpid(), signal.SIGSEGV)")
    reasons(artifact)
    monkeypatch.setattr("dhvt.engines.probe.code_digest", lambda: "another")
    reasons(artifact)
    assert probes.read_text() == ".."


@pytest.mark.parametrize("changed", ["engines/onnx.py", "engines/openvino.py", "data/decode.py", "data/preprocess.py"])
def test_the_digest_of_the_code_changes_with_it(tmp_path, changed):
    package = tmp_path / "dhvt"
    shutil.copytree(Path(dhvt.__path__[0]), package, ignore=shutil.ignore_patterns("__pycache__"))
    code = "from dhvt.engines.cache import code_digest; print(code_digest())"

    def digest():
        options = {"env": os.environ | {"PYTHONPATH": str(tmp_path)}, "cwd": tmp_path}
        result = subprocess.run([sys.executable, "-c", code], **options, capture_output=True, text=True, check=True)
        return result.stdout.strip()

    before = digest()
    assert before == code_digest()
    with (package / changed).open("a") as file:
        file.write("# changed\n")
    assert digest() != before


@pytest.fixture
def no_home(tmp_path, monkeypatch):
    """A user that the system does not know, with a temporary folder that others may write to."""

    def fail():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / f"dhvt-serve-{os.getuid()}"


def test_without_a_home_the_cache_is_a_private_folder(no_home):
    assert cache_folder("engines") == no_home / "engines"
    assert stat.S_IMODE(no_home.stat().st_mode) == 0o700
    assert cache_folder("engines") == no_home / "engines"


def open_to_others(folder):
    folder.mkdir()
    folder.chmod(0o777)


def link_elsewhere(folder):
    (folder.parent / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize("make", [open_to_others, link_elsewhere, Path.touch])
def test_a_folder_that_others_may_have_made_is_not_used(no_home, make, artifact, caplog):
    make(no_home)
    assert cache_folder("engines") is None
    assert open_engine(artifact, "onnxruntime", threads=1).engine.name == "onnxruntime"
    assert not list(no_home.parent.rglob("engines"))


def test_a_folder_of_another_user_is_not_used(no_home, monkeypatch):
    other = os.getuid() + 1
    no_home.with_name(f"dhvt-serve-{other}").mkdir(mode=0o700)
    monkeypatch.setattr("os.getuid", lambda: other)
    assert cache_folder("engines") is None


def test_what_the_runtime_wrote_is_in_the_log(artifact, probe_does, caplog):
    probe_does("print('libfoo: symbol not found', file=sys.stderr, flush=True); os.abort()")
    reasons(artifact)
    assert "the probe of onnxruntime:fp32 wrote: libfoo: symbol not found" in caplog.text


OPTIONS = EngineOptions(threads=1, max_batch_size=2)


def prints_at_the_end(text):
    """A runtime that prints when its process ends."""
    return f"import atexit; atexit.register(lambda: print({text!r}))"


def test_lines_of_a_runtime_are_not_taken_for_the_speed(artifact, probe_does):
    probe_does(prints_at_the_end("device released"))
    speed = probe(artifact, "onnxruntime:fp32", OPTIONS, measure=True)
    assert speed.images_per_s > 0
    assert recall(artifact, "onnxruntime:fp32", OPTIONS).speed == speed


@pytest.mark.parametrize("output", ["", "17", "{}", "dhvt-speed {", "dhvt-speed [1]", 'dhvt-speed {"images_per_s": 1}'])
def test_a_probe_that_prints_no_speed_is_an_error_and_the_others_are_measured(artifact, probe_does, output, caplog):
    probes = probe_does(f"print({output!r}, flush=True); os._exit(0)")
    measure_engines(artifact, "auto", threads=1, max_batch_size=2)
    assert len(probes.read_text()) > 1
    assert "onnxruntime:fp32 does not serve: its probe ended without having printed its speed" in caplog.text
    assert recall(artifact, "onnxruntime:fp32", OPTIONS) is None
