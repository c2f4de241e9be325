"""Compiled graphs on disk: who may have written them, and what happens to damaged ones."""

import os
import stat

import numpy as np
import pytest

from dhvt.artifact import load_artifact
from dhvt.engines import open_engine
from dhvt.engines.cache import cache_folder
from dhvt.engines.compiled import KEPT_FILES, compiled_path, read_compiled, write_compiled
from dhvt.engines.probe_cache import ProbeResult, result_path, write_result


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_what_was_written_is_read():
    path = compiled_path("key")
    assert read_compiled(path) is None
    write_compiled(path, {"1": b"one", "4": bytes(range(256))})
    assert read_compiled(path) == {"1": b"one", "4": bytes(range(256))}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_damaged_file_is_not_read():
    path = compiled_path("key")
    write_compiled(path, {"1": b"graph" * 100})
    whole = path.read_bytes()
    for damaged in (whole[:-30], whole[:50], b"", whole.replace(b"graphgraph", b"grapegraph", 1)):
        path.write_bytes(damaged)
        assert read_compiled(path) is None


@pytest.mark.parametrize("level", ["file", "folder", "parent"])
def test_what_others_could_write_is_not_read(level):
    path = compiled_path("key")
    write_compiled(path, {"1": b"graph"})
    {"file": path, "folder": path.parent, "parent": path.parent.parent}[level].chmod(0o777)
    assert read_compiled(compiled_path("key")) is None


def test_what_another_user_wrote_is_not_read(monkeypatch):
    path = compiled_path("key")
    write_compiled(path, {"1": b"graph"})
    monkeypatch.setattr("os.getuid", lambda: os.geteuid() + 1)
    assert compiled_path("key") is None
    assert read_compiled(path) is None


def test_the_oldest_files_are_removed():
    for number in range(KEPT_FILES + 2):
        path = compiled_path(str(number))
        write_compiled(path, {"1": b"graph"})
        os.utime(path, (number, number))
    write_compiled(compiled_path("last"), {"1": b"graph"})
    assert read_compiled(compiled_path("0")) is None
    assert read_compiled(compiled_path("last")) is not None
    assert len(list(path.parent.iterdir())) == KEPT_FILES


def test_a_file_that_is_used_is_not_the_oldest():
    paths = [compiled_path(str(number)) for number in range(KEPT_FILES)]
    for number, path in enumerate(paths):
        write_compiled(path, {"1": b"graph"})
        os.utime(path, (number, number))
    assert read_compiled(paths[0]) is not None
    write_compiled(compiled_path("last"), {"1": b"graph"})
    assert read_compiled(paths[0]) is not None
    assert read_compiled(paths[1]) is None


def test_what_a_killed_process_left_is_removed(monkeypatch):
    def die(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dhvt.engines.compiled.os.replace", die)
        with pytest.raises(KeyboardInterrupt):
            write_compiled(compiled_path("killed"), {"1": b"graph"})
    (left,) = cache_folder("compiled").iterdir()
    os.utime(left, (1, 1))
    for number in range(KEPT_FILES):
        write_compiled(compiled_path(str(number)), {"1": b"graph"})
    assert not left.exists()


@pytest.mark.parametrize("umask", [0o002, 0o022])
@pytest.mark.parametrize("first", ["result", "compiled"])
def test_the_cache_is_closed_to_others_whatever_is_written_first(umask, first):
    previous = os.umask(umask)
    try:
        if first == "result":
            write_result(result_path(["facts"]), ProbeResult())
        path = compiled_path("key")
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700


def test_the_engine_that_serves_reads_what_its_probe_compiled(artifact_path, monkeypatch):
    artifact = load_artifact(artifact_path)
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    with monkeypatch.context() as patch:
        patch.setattr("dhvt.engines.openvino.compile_graphs", lambda *args, **options: pytest.fail("it was compiled again"))
        logits = open_engine(artifact, "openvino:fp32", threads=2).engine.predict(images)
    (file,) = cache_folder("compiled").iterdir()
    write_compiled(file, {"1": b"no graph", "4": b"no graph"})
    assert np.array_equal(open_engine(artifact, "openvino:fp32", threads=2).engine.predict(images), logits)
    file.write_bytes(b"damaged")
    assert np.array_equal(open_engine(artifact, "openvino:fp32", threads=2).engine.predict(images), logits)
