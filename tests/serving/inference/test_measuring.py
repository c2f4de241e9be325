"""The first start proves one engine; then all are measured and the fastest takes over."""

import asyncio
import json
import logging
import os
import select
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx
import pytest

from dhvt.artifact import load_artifact, write_card
from dhvt.engines import EngineOptions, check_engine
from dhvt.engines.probe import result_file
from serving.inference import measuring
from serving.inference.measuring import EngineMeasuring
from serving.inference.model import ServedModel
from serving.inference.reload import ModelManager
from serving.settings import Settings
from tests.serving.conftest import serving


@pytest.fixture
def settings(artifact_path, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Settings(model=str(artifact_path), threads=1, max_batch_size=4)


def serve_once(settings, measure, monkeypatch):
    """The engine before and after the measurement, the model that then serves, and the number of times siblings were told."""
    monkeypatch.setattr(measuring, "_measure", measure)

    async def run():
        manager, told = ModelManager(await ServedModel.load(settings), partial(ServedModel.load, settings)), []
        before = manager.current.choice
        await EngineMeasuring(settings, 0, manager, lambda: told.append(1)).measure()
        if told:
            await manager.reload()
        after = manager.current.choice
        await manager.current.close()
        return before, after, len(told)

    return asyncio.run(run())


def fastest_is(name):
    """Measures for real, then has the cache say that this candidate is by far the fastest, measured on an idle machine."""
    real = measuring._measure

    async def measure(model, settings, device):
        assert await real(model, settings, device)
        fastest = result_file(load_artifact(model), name, EngineOptions(threads=1, max_batch_size=4))
        for file in fastest.parent.glob("*"):
            speed = {"images_per_s": 1e6, "latency_ms": 1e-3} if file == fastest else {"images_per_s": 1, "latency_ms": 1e3}
            if file.is_file():
                file.write_text(json.dumps({"failure": None, "speed": speed}))
        return True

    return measure


def test_the_fastest_takes_over_after_the_measurement(settings, monkeypatch):
    before, after, told = serve_once(settings, fastest_is("onnxruntime:fp32"), monkeypatch)
    assert not before.is_final
    assert before.engine.name == "openvino"
    assert (after.engine.name, after.is_final, told) == ("onnxruntime", True, 1)


def test_the_engine_stays_where_it_is_the_fastest(settings, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "bentoml.service.dhvt")
    first = next(entry.name for entry in check_engine_of(settings) if entry.chosen)
    before, after, told = serve_once(settings, fastest_is(first), monkeypatch)
    assert told == 0
    assert before.engine is after.engine
    assert after.is_final
    assert f"engine {first}; 1000000 images/s" in caplog.text


def check_engine_of(settings):
    return check_engine(load_artifact(settings.model), "auto", threads=1, max_batch_size=4)


def test_a_failure_to_measure_leaves_the_engine(settings, monkeypatch, caplog):
    real = measuring._measure

    async def fail(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr("sys.executable", "/bin/false")
            return await real(*arguments)

    before, after, told = serve_once(settings, fail, monkeypatch)
    assert told == 0
    assert before is after
    assert "the engines could not be measured: the process ended with 1" in caplog.text


def test_speeds_that_cannot_be_kept_are_measured_once(settings, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    real, measured = measuring._measure, []

    async def measure(*arguments):
        measured.append(1)
        return await real(*arguments)

    monkeypatch.setattr(measuring, "_measure", measure)

    async def run():
        manager = ModelManager(await ServedModel.load(settings), partial(ServedModel.load, settings))
        measuring_engines = EngineMeasuring(settings, 0, manager, lambda: None)
        await measuring_engines.measure()
        await manager.reload()
        await measuring_engines.measure()
        await manager.current.close()

    asyncio.run(run())
    assert len(measured) == 1
    assert "the engines' speeds cannot be kept: set XDG_CACHE_HOME to a folder that this server may write to" in caplog.text


def test_a_model_that_is_exported_meanwhile_waits_for_a_reload(artifact_path, settings, tmp_path, monkeypatch):
    folder = shutil.copytree(artifact_path, tmp_path / "artifact")
    measure = fastest_is("onnxruntime:fp32")

    async def export_meanwhile(model, *arguments):
        await measure(model, *arguments)
        write_card(folder, replace(load_artifact(folder).card, temperature=2.5))
        return True

    before, after, told = serve_once(replace(settings, model=str(folder)), export_meanwhile, monkeypatch)
    assert told == 0
    assert before is after


def test_an_engine_that_fails_in_the_server_does_not_take_over_again(settings, monkeypatch, caplog):
    real = ServedModel.load

    async def load(settings):
        model = await real(settings)
        return replace(model, choice=replace(model.choice, rejected=("onnxruntime:fp32: its self-test failed",)))

    monkeypatch.setattr(ServedModel, "load", load)
    before, after, told = serve_once(settings, fastest_is("onnxruntime:fp32"), monkeypatch)
    assert told == 0
    assert before is after
    assert "onnxruntime:fp32 is the fastest, but has failed in this process" in caplog.text


def test_the_probe_of_a_measuring_process_that_was_ended_ends_too(settings, tmp_path, monkeypatch):
    pipe, script = tmp_path / "pipe", tmp_path / "python"
    os.mkfifo(pipe)
    script.write_text(f"#!/bin/sh\nexec 3>'{pipe}'\nsleep 60 &\nkill -TERM $$\n")
    script.chmod(0o755)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    monkeypatch.setattr("sys.executable", str(script))
    try:
        assert not asyncio.run(measuring._measure(tmp_path, settings, 0))
        assert select.select([reader], [], [], 20)[0]  # all that held the other end have ended
    finally:
        os.close(reader)


def test_the_table_is_in_info_and_in_the_log(artifact_path, tmp_path):
    with serving(tmp_path / "log", DHVT_MODEL=str(artifact_path), DHVT_ENGINE="onnxruntime") as url:
        (candidate,) = httpx.get(f"{url}/info").json()["engine"]["candidates"]
    assert (candidate["engine"], candidate["precision"], candidate["chosen"]) == ("onnxruntime", "fp32", True)
    assert {"images_per_s", "latency_ms", "top1_loss", "top1_agreement", "reason"} <= candidate.keys()
    assert "engine onnxruntime:fp32; " in (tmp_path / "log").read_text()


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="Linux alone")
def test_the_process_that_measures_gives_way_to_the_server():
    code = "import os; from dhvt.engines.measure_process import give_way; give_way(); print(os.nice(0))"
    code += "; print(open('/proc/self/oom_score_adj').read())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["19", "1000"]
