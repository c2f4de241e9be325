"""docs/own-model.md: its commands lead from a folder of images to a server that answers with the user's classes."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from dhvt.artifact import load_artifact
from tests.conftest import CLASSES, draw
from tests.serving.conftest import ROOT, serving

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
TEXT = (ROOT / "docs" / "own-model.md").read_text()
COMMANDS = [command for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for command in block.splitlines()]
SMALL = "--epochs 1 --batch-size 16 --img-size 32 --model-option depth=1"
"""In place of the page's epochs: whether the model is good does not matter here."""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A copy of this project with images of three classes in it, and a model store of its own."""
    folder = tmp_path / "project"
    for name in ("dhvt", "export", "serving"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "dhvt_tiny_cifar10"))
    for name in ("bentofile.yaml", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    for label, name in enumerate(CLASSES):
        for split, seeds in (("train", range(20)), ("test", range(20, 24))):
            (folder / "images" / split / name).mkdir(parents=True)
            for seed in seeds:
                draw(label, seed).save(folder / "images" / split / name / f"{seed:04}.jpg")
    draw(0, 99).save(folder / "five.jpg")
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    return folder


def run(command: str, project: Path) -> str:
    """What a command of the page prints."""
    command = re.sub(r"--epochs \d+", SMALL, command)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DHVT_")}
    environ |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(project)}
    result = subprocess.run(
        command, shell=True, cwd=project, env=environ, capture_output=True, text=True, timeout=280, check=False
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
    return result.stdout


@pytest.mark.timeout(900)
def test_from_a_folder_of_images_to_a_server(project, tmp_path):
    serve, curl = (next(command for command in COMMANDS if command.startswith(name)) for name in ("bentoml serve", "curl"))
    printed = {command: run(command, project) for command in COMMANDS if command not in (serve, curl)}
    card = load_artifact(project / "runs" / "hands" / "artifact").card
    assert card.name == "hands"
    assert "hands:" in printed["bentoml list"]
    assert f"hands:{card.version}" in printed["bentoml models list"]
    (empty := tmp_path / "empty").mkdir()
    shutil.move(project / "runs", tmp_path / "runs")  # the bento has the model
    with serving(tmp_path / "log", bento=serve.split()[-1], cwd=empty) as url:
        output = run(curl.replace("localhost:3000", url), project)
        info = httpx.get(f"{url}/info").json()
    headers, _, body = output.partition("\n\n")
    answer = json.loads(body)
    assert (answer["model"], answer["version"]) == ("hands", card.version)
    assert answer["predictions"][0]["label"] in CLASSES
    assert f"x-model-digest: {card.digest}" in headers
    assert (info["model"], info["classes"], info["digest"]) == ("hands", sorted(CLASSES), card.digest)
    assert json.loads(printed[next(command for command in printed if "--json" in command)])["model"] == "hands"
