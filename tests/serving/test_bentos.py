"""The model and the service as BentoML packs them. Nothing here needs the network."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from dhvt.artifact import load_artifact, write_card
from dhvt.errors import ConfigError
from dhvt.model.checkpoint import save_checkpoint
from serving.settings import BUNDLED_MODEL, Settings
from tests.conftest import CLASSES, draw, encode
from tests.documentation.pages import read_lines
from tests.serving.conftest import ROOT, serving

PNG = encode(draw(0, 1))


@pytest.fixture(scope="module")
def bentoml_home(tmp_path_factory):
    """A store of its own."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("bentoml")
        patch.setenv("BENTOML_HOME", str(home))
        yield home


def run(*arguments, **options):
    result = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False, **options
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def package_names(requirements):
    """Of a file that may pin versions."""
    return {match[0].lower() for line in requirements.read_text().splitlines() if (match := re.match(r"[\w-]+", line))}


def test_a_model_of_the_store_is_served_by_its_tag(bentoml_home, checkpoint, tmp_path):
    save_checkpoint(checkpoint, tmp_path / "ckpt.pt")
    output = run("export/to_onnx.py", str(tmp_path / "ckpt.pt"), "--tag", "shapes:v1")
    assert "DHVT_MODEL=shapes:v1 bentoml serve" in output
    with serving(tmp_path / "log", DHVT_MODEL="shapes:latest") as url:
        info = httpx.get(f"{url}/info").json()
    assert info["digest"] == load_artifact(tmp_path / "artifact").digest
    assert (info["model"], info["version"]) == ("shapes", "v1")
    store = "import sys; from dhvt.artifact import load_artifact; from dhvt.store import store_artifact"
    store += "; print(store_artifact(load_artifact(sys.argv[1]), 'shapes'))"
    assert run("-c", store, str(tmp_path / "artifact")) == "shapes:v1\n"  # which is there


def test_a_tag_that_is_not_there(bentoml_home):
    with pytest.raises(ConfigError, match="nothing:v1"):
        Settings(model="nothing:v1").model_path()


def build(**environ):
    """``bentoml build`` in the project's folder."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DHVT_")} | environ
    return subprocess.run(
        [sys.executable, "-m", "bentoml", "build", "--version", "test"],
        cwd=ROOT, env=environ, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def dhvt(*arguments):
    """The ``dhvt`` command."""
    return run("-m", "dhvt.cli", *map(str, arguments))


@pytest.fixture(scope="module")
def hands(bentoml_home, artifact_path, tmp_path_factory):
    """A model folder of the user's, and the bento with it: hands:test with hands:3."""
    model = shutil.copytree(artifact_path, tmp_path_factory.mktemp("hands") / "artifact")
    write_card(model, replace(load_artifact(model).card, name="hands", version="3", temperature=2.5))
    built = build(DHVT_MODEL=str(model))
    assert built.returncode == 0, built.stdout + built.stderr
    return model


def test_a_built_bento_serves_the_bundled_model_from_anywhere(bentoml_home, tmp_path):
    built = build()
    assert built.returncode == 0, built.stdout + built.stderr
    bento = bentoml_home / "bentos" / "dhvt" / "test"
    names = {str(path.relative_to(bento)) for path in bento.rglob("*") if path.is_file()}
    assert {"src/serving/service.py", "env/docker/Dockerfile", "env/python/requirements.txt"} <= names
    assert not [name for name in names if "pytest" in name or name.startswith(("src/tests", "src/runs", "src/benchmarks"))]
    assert not [name for name in names if name.endswith(".onnx")]  # it is in the model store
    assert package_names(ROOT / "serving" / "requirements.txt") <= package_names(bento / "env" / "python" / "requirements.txt")
    with serving(tmp_path / "log", bento="dhvt:test", cwd=tmp_path) as url:
        assert httpx.get(f"{url}/ui/main.js").status_code == httpx.get(f"{url}/docs/docs.js").status_code == 200
        answer = httpx.post(f"{url}/classify", files={"image": PNG}, timeout=30).json()
    card = load_artifact(BUNDLED_MODEL).card
    assert (answer["model"], answer["version"]) == (card.name, card.version)
    assert f"{card.name}:{card.version}" in run("-m", "bentoml", "models", "list", "--output", "json")


def test_the_users_model_is_in_the_bento_and_serves_without_a_setting(hands, bentoml_home, tmp_path):
    (row,) = json.loads(run("-m", "bentoml", "list", "hands", "--output", "json"))
    assert row["tag"] == "hands:test"
    assert float(row["model_size"].split()[0]) > 0
    assert "hands:3" in run("-m", "bentoml", "models", "list", "hands", "--output", "json")
    away = hands.rename(hands.with_name("away"))
    try:
        with serving(tmp_path / "log", bento="hands:latest", cwd=tmp_path) as url:
            response = httpx.post(f"{url}/classify", files={"image": PNG}, timeout=30)
    finally:
        away.rename(hands)
    answer = response.json()
    assert (answer["model"], answer["version"]) == ("hands", "3")
    assert {entry["label"] for entry in answer["predictions"]} == set(CLASSES)
    assert response.headers["X-Model-Digest"] == load_artifact(hands).digest
    assert f"serving hands 3 from {bentoml_home / 'models' / 'hands' / '3'}" in (tmp_path / "log").read_text()


def test_a_bento_goes_to_another_machine_as_the_readme_says(hands, bentoml_home, tmp_path):
    """But for the installation: what ``serving/requirements.txt`` has is here, and a test of the container serves with that."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def shell(line, home):
        environ = os.environ | {"PATH": path, "BENTOML_HOME": str(home)}
        result = subprocess.run(line, shell=True, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr

    lines = [line.replace("parts", "hands") for line in read_lines(ROOT / "README.md")]
    there = tmp_path / "there"
    for command, home in (("bentoml export", bentoml_home), ("bentoml import", there)):
        shell(next(line for line in lines if line.startswith(command)), home)
    with serving(tmp_path / "log", bento="hands:latest", cwd=tmp_path, BENTOML_HOME=str(there)) as url:
        assert httpx.get(f"{url}/info").json()["digest"] == load_artifact(hands).digest


def test_a_setting_wins_over_the_model_in_the_bento(hands, artifact_path, tmp_path):
    with serving(tmp_path / "log", bento="hands:latest", cwd=tmp_path, DHVT_MODEL=str(artifact_path)) as url:
        answer = httpx.post(f"{url}/classify", files={"image": PNG}, timeout=30).json()
    assert answer["model"] == load_artifact(artifact_path).card.name
    assert f"DHVT_MODEL is set: {artifact_path} is served, and not hands:3 of this bento" in (tmp_path / "log").read_text()


def test_a_bento_is_built_again_from_the_same_model_and_from_its_tag(hands):
    for model in (str(hands), "hands:latest"):
        run("-m", "bentoml", "delete", "hands:test", "--yes")
        built = build(DHVT_MODEL=model)
        assert built.returncode == 0, built.stdout + built.stderr
    assert json.loads(run("-m", "bentoml", "models", "list", "hands", "--output", "json"))[0]["tag"] == "hands:3"


def test_a_bento_without_its_model_is_not_built(hands, bentoml_home, tmp_path):
    other = shutil.copytree(hands, tmp_path / "other")
    write_card(other, replace(load_artifact(other).card, temperature=9.0))
    damaged = shutil.copytree(hands, tmp_path / "damaged")
    (damaged / "model.onnx").write_bytes(b"")
    before = {str(path) for path in (bentoml_home / "bentos").glob("*/*")}
    for model, message in (
        (tmp_path / "nothing", "nothing is no model folder: it does not exist"),
        ("nothing:v1", "DHVT_MODEL is 'nothing:v1'"),
        (damaged, "model.onnx is not the exported file"),
        (other, "the model cannot be stored as hands:3: the store has another model under this tag"),
    ):
        built = build(DHVT_MODEL=str(model))
        assert built.returncode != 0
        errors = [line for line in built.stderr.splitlines() if message in line]
        assert len(errors) == 1, built.stdout + built.stderr
        assert "Traceback" not in built.stderr
    assert {str(path) for path in (bentoml_home / "bentos").glob("*/*")} == before


def test_commands_take_tags(hands, image_folder):
    image = image_folder / CLASSES[0] / "00.png"
    (line,) = dhvt("classify", "--model", "hands:latest", "--json", image).splitlines()
    answer, card = json.loads(line), load_artifact(hands).card
    assert (answer["model"], answer["version"], answer["digest"]) == ("hands", "3", card.digest)
    assert "of 60 images" in dhvt("evaluate", "--model", "hands:3", "--data", image_folder)
    assert dhvt("verify", "--model", "hands:3").startswith("hands 3 (")
    absent = subprocess.run(
        [sys.executable, "-m", "dhvt.cli", "classify", "--model", "feet:1", str(image)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (absent.returncode, absent.stderr.count("\n")) == (1, 1)
    assert "--model is 'feet:1'" in absent.stderr


def test_serving_needs_what_its_requirements_say():
    """The bento's requirements and the package's extras name the same packages."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {*project["dependencies"], *extras["serve"], *extras["cpu"]} - {"dhvt-serve[serve]"}
    assert set(filter(None, (ROOT / "serving" / "requirements.txt").read_text().split("\n"))) == wanted
