"""Workers are spread over the GPUs. There is none here: what BentoML and the engine are told is recorded."""

import asyncio
import time

from serving.inference.model import ServedModel
from serving.settings import Settings
from tests.serving.conftest import serving

RECORD_WORKERS = """
from dhvt.engines.settings import EngineSettings

def device_of(self, worker):
    with open({log!r}, "a") as file:
        print(worker, file=file)
    return 0

EngineSettings.device_of = device_of
"""


def test_each_worker_asks_for_the_gpu_of_its_number(artifact_path, tmp_path, monkeypatch):
    log = tmp_path / "workers"
    (tmp_path / "sitecustomize.py").write_text(RECORD_WORKERS.format(log=str(log)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    with serving(tmp_path / "log", DHVT_MODEL=str(artifact_path), DHVT_WORKERS="2"):
        deadline = time.monotonic() + 90
        while len(set(log.read_text().split())) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert set(log.read_text().split()) == {"1", "2"}


def test_the_engine_gets_the_device(artifact_path, monkeypatch):
    from serving.inference import model

    real, devices = model.open_engine, []

    def open_engine(artifact, name, *, device, **options):
        devices.append(device)
        return real(artifact, name, device=device, **options)

    monkeypatch.setattr(model, "open_engine", open_engine)

    async def load():
        await (await ServedModel.load(Settings(model=str(artifact_path), engine="onnxruntime"), 3)).close()

    asyncio.run(load())
    assert devices == [3]
