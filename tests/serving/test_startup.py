"""What ``bentoml serve`` does with a model that it cannot serve, and with the bundled one."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from PIL import Image

from dhvt.artifact import load_artifact
from serving.settings import BUNDLED_MODEL, Settings
from tests.conftest import encode
from tests.serving.conftest import ROOT, free_port, serving


def serve(**settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bentoml", "serve", "--port", str(free_port())]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **settings}, capture_output=True, text=True, timeout=60, check=False
    )


def edit_classes(root: Path) -> None:
    card = root / "model.json"
    card.write_text(card.read_text().replace("circle", "sphere"))


def cut_graph(root: Path) -> None:
    graph = root / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [(edit_classes, "model.json was changed"), (cut_graph, "model.onnx is not the exported file")],
)
def test_a_damaged_artifact_stops_the_start(artifact_copy, damage, message):
    damage(artifact_copy)
    result = serve(DHVT_MODEL=str(artifact_copy))
    assert result.returncode == 1
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("dhvt: ")
    assert message in lines[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"DHVT_MODEL": "tests"}, "tests is no model folder"),
        ({"DHVT_ENGINE": "warp"}, "no engine 'warp'"),
        ({"DHVT_MAX_IN_FLIGHT": "many"}, "DHVT_MAX_IN_FLIGHT is 'many'"),
        ({"DHVT_MODL": "x"}, "unknown setting DHVT_MODL"),
        ({"DHVT_SAMPLE_FOLDER": "/proc/nowhere"}, "DHVT_SAMPLE_FOLDER is '/proc/nowhere', which cannot be written to"),
        ({"DHVT_TOKEN_FILE": "/nowhere"}, "DHVT_TOKEN_FILE is '/nowhere', which cannot be read"),
    ],
)
def test_a_wrong_setting_stops_the_start(settings, message):
    result = serve(**settings)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_kubernetes_service_of_our_name_stops_nothing():
    """Kubernetes sets these in every pod beside it."""
    theirs = {"DHVT_SERVICE_HOST": "10.0.0.1", "DHVT_SERVICE_PORT": "80", "DHVT_SERVICE_PORT_HTTP": "80"}
    theirs |= {"DHVT_PORT": "tcp://10.0.0.1:80", "DHVT_PORT_80_TCP": "tcp://10.0.0.1:80", "DHVT_PORT_80_TCP_ADDR": "10.0.0.1"}
    theirs |= {"DHVT_SERVE_SERVICE_HOST": "10.0.0.1", "DHVT_SERVE_PORT_80_TCP_PROTO": "tcp"}
    assert Settings.from_environ(theirs) == Settings()


def test_the_bundled_model_knows_a_cat(tmp_path):
    data = pytest.importorskip("skimage.data")
    cat = encode(Image.fromarray(data.chelsea()), "JPEG")
    started = time.monotonic()
    with serving(tmp_path / "log", DHVT_ENGINE="auto") as url:
        print(f"ready after {time.monotonic() - started:.1f} s")
        answer = httpx.post(f"{url}/classify", files={"image": ("cat.jpg", cat)}, timeout=30).json()
    assert "cat" in [entry["label"] for entry in answer["predictions"][:2]]


def test_the_bundled_model_was_measured():
    card = load_artifact(BUNDLED_MODEL).card
    assert card.metrics["test"]["images"] == 10_000
    assert card.metrics["test"]["top1"] >= 85
    assert card.provenance["commands"][0]["command"].startswith("dhvt train ")
    assert card.variants[0].parity["images"] == "real"


def test_the_bundled_model_reaches_its_accuracy_here(shared):
    from click.testing import CliRunner

    from dhvt.cli.main import main

    test_images = shared / "data" / "cifar10" / "test.parquet"
    result = CliRunner().invoke(main, ["evaluate", "--data", str(test_images)])
    recorded = load_artifact(BUNDLED_MODEL).card.metrics["test"]["top1"]
    assert result.exit_code == 0, result.output
    measured = float(result.stdout.split("top-1 ")[1].split()[0])
    assert measured == pytest.approx(recorded, abs=0.3)


@pytest.mark.parametrize("host", ["127.0.0.1", None])
def test_a_port_in_use_ends_the_start_with_one_line(host):
    with socket.socket() as taken:
        taken.bind((host or "0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "bentoml", "serve", "--port", str(port), *(["--host", host] if host else [])]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith(f"dhvt: port {port} is in use")
    assert "--port" in line
