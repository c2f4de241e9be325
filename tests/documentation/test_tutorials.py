"""The commands of the tutorials and of docs/terminal.md, run in order; own-model.md has a test of its own."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from dhvt.cli.main import main
from tests.conftest import CLASSES, draw
from tests.documentation.pages import ROOT, read_lines, split_line
from tests.serving.conftest import serving

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
SMALL = {"dog": CLASSES[0], "6": "2", "400": "20", "1000": "20"}
"""In place of the pages' words: a class, a layer and numbers of masks of the small model."""


@pytest.fixture
def folder(artifact_path, tmp_path, monkeypatch) -> Path:
    """What the pages take for granted, of drawn images: models, labelled images, others, photographs."""
    for run in ("hands", "mine"):
        shutil.copytree(artifact_path, tmp_path / "runs" / run / "artifact")
    for name, first in (("new-images", 100), ("test-images", 200)):
        for label, class_name in enumerate(CLASSES):
            (tmp_path / name / class_name).mkdir(parents=True)
            for seed in range(first, first + 10):
                draw(label, seed).save(tmp_path / name / class_name / f"{seed}.png")
    for name in ("other", "photos", "more/deeper"):
        (tmp_path / name).mkdir(parents=True)
        draw(2, 7, size=(20, 20)).save(tmp_path / name / "one.png")
    for name in ("five.jpg", "cat.jpg"):
        draw(0, 5).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DHVT_MODEL", str(artifact_path))  # in place of the bundled one
    return tmp_path


def run_dhvt(words: list[str]) -> str:
    """What a command prints, in this process."""
    result = CliRunner().invoke(main, words[1:])
    assert result.exit_code == 0, f"{shlex.join(words)}\n{result.output}{result.exception!r}"
    return result.stdout


def run_shell(line: str) -> str:
    """What any other command prints."""
    environ = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(line, shell=True, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, f"{line}\n{result.stdout}{result.stderr}"
    return result.stdout


def run_page(name: str, folder: Path, stack: ExitStack) -> tuple[dict[str, str], str]:
    """What each command of a page printed, and the address of its server, which runs until ``stack`` ends."""
    printed, url = {}, ""
    for line in read_lines(ROOT / "docs" / name):
        ((variables, words), *rest) = split_line(line)
        if words[0] == "bentoml":
            settings = {key: str(folder / value) if (folder / value).exists() else value for key, value in variables.items()}
            url = stack.enter_context(serving(folder / "log", **settings))
        elif words[0] == "dhvt" and not rest:
            printed[line] = run_dhvt([SMALL.get(word, word) for word in words])
        else:
            if "localhost" in line and not url:
                url = stack.enter_context(serving(folder / "log", DHVT_MODEL=os.environ["DHVT_MODEL"]))
            printed[line] = run_shell(line.replace("localhost:3000", url))
    return printed, url


def find(printed: dict[str, str], *parts: str) -> str:
    (output,) = (output for line, output in printed.items() if all(part in line for part in parts))
    return output


def test_trust(folder):
    with ExitStack() as stack:
        printed, _ = run_page("trust.md", folder, stack)
    assert "has 30 reference images" in find(printed, "dhvt calibrate")
    assert "; one of: " in find(printed, "--coverage 0.95 five.jpg")
    assert "coverage 0.95: right label in the set for" in find(printed, "dhvt evaluate")
    assert "images of other kinds are called unknown" in find(printed, "dhvt evaluate")
    assert "openvino:fp32: coverage 0.95" in find(printed, "dhvt verify")
    assert (folder / "report" / "report.html").is_file()
    answer = json.loads(find(printed, "coverage=0.95&reject=0.05"))
    assert {"prediction_set", "known", "p_known"} <= answer.keys()
    assert json.loads(find(printed, "/drift"))["evidence"] == 1


def test_service_and_the_example_that_calls_it(folder):
    with ExitStack() as stack:
        printed, url = run_page("service.md", folder, stack)
        token = (folder / "tokens").read_text().strip()
        command = [sys.executable, str(ROOT / "examples" / "call_the_server.py"), url, "five.jpg", "cat.jpg"]
        environ = os.environ | {"DHVT_TOKEN": token}
        example = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
        broken = subprocess.run([*command[:3], "tokens"], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert stat.S_IMODE((folder / "tokens").stat().st_mode) == 0o600
    assert json.loads(find(printed, "@five.jpg localhost"))["error"]["code"] == "unauthorized"
    answer = json.loads(find(printed, "@five.jpg -H"))
    assert answer["model"] == "dhvt_test"
    assert json.loads(find(printed, "/info"))["limits"]["max_upload_bytes"] == 5_000_000
    assert "dhvt_requests_total" in find(printed, "/metrics")
    assert json.loads(find(printed, "/reload"))["version"] == answer["version"]
    best = answer["predictions"][0]
    assert example.stdout.splitlines()[0] == f"five.jpg: {best['label']} ({best['score']:.1%})", example.stderr
    assert broken.returncode == 1
    assert "tokens: 415 unsupported_media_type" in broken.stderr


def test_terminal(folder):
    run_dhvt(["dhvt", "calibrate", "--model", "runs/mine/artifact", "--data", "new-images"])
    with ExitStack() as stack:
        printed, _ = run_page("terminal.md", folder, stack)
    assert find(printed, "dhvt classify cat.jpg").startswith("cat.jpg: ")
    assert len(find(printed, "'more/**/*.png'").splitlines()) == 2
    assert find(printed, "--json").count('"file": "photos/one.png"') == 1
    assert "prediction_set" in find(printed, "--coverage 0.95 --reject 0.05")
    assert (folder / "classes.parquet").stat().st_size > 0


def test_explanations(folder):
    with ExitStack() as stack:
        run_page("explanations.md", folder, stack)
    for name in ("why", "dog", "heads"):
        with Image.open(folder / f"{name}.png") as image:
            assert image.width > image.height
