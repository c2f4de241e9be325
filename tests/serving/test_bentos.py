"""The model and the service as BentoML packs them. Nothing here needs the network."""

import re
import subprocess
import sys

import httpx
import pytest

from dhvt.artifact import load_artifact
from dhvt.errors import ConfigError
from dhvt.model.checkpoint import save_checkpoint
from serving.settings import Settings
from tests.conftest import draw, encode
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
    again = subprocess.run(
        [sys.executable, "export/to_onnx.py", str(tmp_path / "ckpt.pt"), "--tag", "shapes:v1"],
        cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert again.returncode == 1
    assert "cannot be stored as shapes:v1" in again.stderr


def test_a_tag_that_is_not_there(bentoml_home):
    with pytest.raises(ConfigError, match="nothing:v1"):
        Settings(model="nothing:v1").model_path()


def test_a_built_bento_serves_the_bundled_model_from_anywhere(bentoml_home, tmp_path):
    run("-m", "bentoml", "build", "--version", "test")
    bento = bentoml_home / "bentos" / "dhvt" / "test"
    names = {str(path.relative_to(bento)) for path in bento.rglob("*") if path.is_file()}
    assert {"src/serving/models/dhvt_tiny_cifar10/model.onnx", "env/docker/Dockerfile", "env/python/requirements.txt"} <= names
    assert not [name for name in names if "pytest" in name or name.startswith(("src/tests", "src/runs", "src/benchmarks"))]
    assert package_names(ROOT / "serving" / "requirements.txt") <= package_names(bento / "env" / "python" / "requirements.txt")
    with serving(tmp_path / "log", bento="dhvt:test", cwd=tmp_path) as url:
        assert httpx.post(f"{url}/classify", files={"image": PNG}, timeout=30).status_code == 200


def test_serving_needs_what_its_requirements_say():
    """The bento's requirements and the package's extras name the same packages."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {*project["dependencies"], *extras["serve"], *extras["cpu"]} - {"dhvt-serve[serve]"}
    assert set(filter(None, (ROOT / "serving" / "requirements.txt").read_text().split("\n"))) == wanted
