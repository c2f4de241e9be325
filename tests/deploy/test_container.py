"""The bento as a container has it: without this package installed, and with a root file system that cannot be written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from tests.conftest import CLASSES, draw, encode
from tests.serving.conftest import ROOT, end_server, free_port, wait_until_ready

PNG = encode(draw(0, 1))
PYTHON = Path(sys.base_prefix) / "bin" / "python3"  # which knows nothing of what the environment links to
READ_ONLY = """
mount --make-rprivate /
awk '{print $2}' /proc/self/mounts | grep -vE '^/(proc|sys|dev)(/|$)' | while read -r mount; do
    mount -o remount,bind,ro "$mount" || exit 1
done || exit 1
for folder in $WRITABLE; do mount -t tmpfs none "$folder"; done
! touch /written 2>/dev/null || exit 1
exec "$@"
"""


@pytest.fixture(scope="module")
def bento(artifact_path, tmp_path_factory):
    """The folder that ``bentoml containerize`` copies into the image, with a user's model."""
    if sys.prefix == sys.base_prefix or not PYTHON.exists():
        pytest.skip("needs a virtual environment, so that there is a Python without this package")
    home = tmp_path_factory.mktemp("bentoml")
    command = [sys.executable, "-m", "bentoml", "build", "--version", "container"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DHVT_")}
    environ |= {"BENTOML_HOME": str(home), "DHVT_MODEL": str(artifact_path)}
    subprocess.run(command, cwd=ROOT, env=environ, check=True, capture_output=True)
    folder = next((home / "bentos").glob("*/container"))
    shutil.move(home / "models", folder / "models")  # as containerize copies it
    return folder


def container_environment(folder):
    """Of the Deployment, with its mounts in a folder."""
    container = yaml.safe_load((ROOT / "deploy/kubernetes/base/deployment.yaml").read_text())["spec"]["template"]["spec"][
        "containers"
    ][0]
    mounts = {}
    for mount in container["volumeMounts"]:
        path = folder / mount["name"]
        path.mkdir()
        mounts[mount["mountPath"]] = str(path)
    environ = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    for name, value in environ.items():
        below = next(mount for mount in mounts if value.startswith(mount))  # else it is on the read-only file system
        environ[name] = mounts[below] + value.removeprefix(below)
    return environ | {"TMPDIR": mounts["/tmp"]}, list(mounts.values())


@contextmanager
def served(bento, folder, prefix=(), **environ):
    """The bento, served by a Python that has its requirements and not this package."""
    port, log = free_port(), folder / "log"
    command = [*prefix, str(PYTHON), "-m", "bentoml", "serve", str(bento), "--host", "127.0.0.1", "--port", str(port)]
    packages = os.pathsep.join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": packages, "BENTOML_CONTAINERIZED": "true"} | environ
    environ |= {"HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=folder, env=environ, stdout=file, stderr=file, start_new_session=True)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        end_server(process)


def test_a_bento_is_served_where_this_package_is_not_installed(bento, tmp_path):
    environ, _ = container_environment(tmp_path)
    with served(bento, tmp_path, **environ) as url:
        assert httpx.post(f"{url}/classify", files={"image": PNG}, timeout=30).status_code == 200


def test_a_bento_is_served_from_a_read_only_root(bento, tmp_path):
    """The Deployment's folders are all that it writes, and its model is found beside it, not in ``BENTOML_HOME``."""
    environ, writable = container_environment(tmp_path)
    prefix = ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh"]
    try:
        tried = subprocess.run([*prefix, "true"], env=os.environ | {"WRITABLE": ""}, check=False, capture_output=True)
    except OSError:  # there is no unshare
        tried = None
    if tried is None or tried.returncode:
        pytest.skip("needs Linux and the right to mount")
    environ["WRITABLE"] = " ".join(writable)
    with served(bento, tmp_path, prefix, **environ) as url:
        response = httpx.post(f"{url}/classify", files={"image": PNG}, timeout=30)
        assert response.json()["model"] == "dhvt_test"
        assert {entry["label"] for entry in response.json()["predictions"]} == set(CLASSES)
        batch = httpx.post(f"{url}/classify/batch", files=[("image", PNG), ("image", PNG)], timeout=30)
        assert [set(result) for result in batch.json()["results"]] == [{"name", "predictions"}] * 2
        assert "dhvt_requests_total" in httpx.get(f"{url}/metrics").text


def test_the_container_is_complete_and_does_not_run_as_root(bento):
    lines = (bento / "env" / "docker" / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("USER ")][-1] == "USER bentoml"
    uid = next(line.rpartition("=")[2] for line in lines if line.startswith("ARG BENTO_USER_UID="))
    deployment = yaml.safe_load((ROOT / "deploy/kubernetes/base/deployment.yaml").read_text())
    assert deployment["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == int(uid)
    copied = [match[1] for line in lines if (match := re.match(r"COPY .*?(\./\S*) ", line))]
    assert copied
    assert all((bento / path).exists() for path in copied)
    assert (bento / "env" / "docker" / "entrypoint.sh").is_file()
