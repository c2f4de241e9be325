"""What each installation needs, and what it does without."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCK = """
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec

def find_unblocked(name, path=None, target=None):
    return None if name.partition(".")[0] in {blocked} else find_spec(name, path, target)

PathFinder.find_spec = find_unblocked
"""


def run_without(blocked, *arguments):
    """Python where these packages are not installed."""
    command = [sys.executable, "-c", BLOCK.format(blocked=set(blocked)) + arguments[0], *arguments[1:]]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def requirements(extra, seen=()):
    """Names of the packages that an extra asks for, with those of the extras that it includes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = {re.match(r"[\w-]+", line)[0] for line in project["dependencies"]}
    for line in project["optional-dependencies"][extra]:
        name, extras = re.match(r"([\w-]+)(?:\[([\w,-]+)\])?", line).groups()
        if name == "dhvt-serve":
            found = found.union(*(requirements(inner) for inner in extras.split(",")))
        else:
            found.add(name)
    return found


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_a_server_installs_nothing_that_only_training_needs(extra):
    assert not requirements(extra) & {"torch", "torchvision", "timm", "pyarrow", "matplotlib", "onnx", "nncf", "tensorboard"}


def test_onnx_runtime_comes_with_cpu_or_gpu_alone():
    """onnxruntime and onnxruntime-gpu overwrite each other's files."""
    assert requirements("cpu") & {"onnxruntime", "onnxruntime-gpu"} == {"onnxruntime"}
    assert requirements("gpu") & {"onnxruntime", "onnxruntime-gpu"} == {"onnxruntime-gpu"}
    for extra in ("train", "export", "trt"):
        assert not requirements(extra) & {"onnxruntime", "onnxruntime-gpu", "openvino"}


def test_what_is_advertised_is_in_an_extra():
    assert "tensorboard" in requirements("tracker")
    assert "matplotlib" in requirements("report") & requirements("train")
    assert "pyarrow" in requirements("parquet") & requirements("train")


def test_the_server_starts_without_what_training_needs():
    code = "import serving.service, dhvt.cli.classify, dhvt.cli.evaluate, dhvt.cli.verify"
    result = run_without(["torch", "timm", "pyarrow", "matplotlib", "onnx", "nncf", "openvino"], code)
    assert result.returncode == 0, result.stderr


def test_export_is_imported_without_openvino():
    modules = "export.to_onnx, export.to_trt, export.pipeline, export.engine, export.targets.int8, tests.gpu.conftest"
    code = f"import sys; sys.path.insert(0, 'benchmarks'); import gpu_check, {modules}"
    result = run_without(["openvino", "nncf", "onnxruntime"], code)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("blocked", "target", "message"),
    [
        ("torch", "onnx", "exporting to onnx needs torch, not installed here; pip install 'dhvt-serve[cpu,export]'"),
        ("nncf", "int8", "exporting to int8 needs nncf, not installed here; pip install 'dhvt-serve[cpu,export]'"),
        ("polygraphy", "tensorrt", "needs polygraphy, not installed here; pip install 'dhvt-serve[gpu,trt]' tensorrt"),
    ],
)
def test_a_missing_extra_is_one_line(blocked, target, message):
    doors = {"onnx": ["to_onnx"], "int8": ["to_onnx", "--int8"], "tensorrt": ["to_trt"]}
    script, *options = doors[target]
    for code, arguments in (
        ("from dhvt.cli.main import main; main()", ["export", "ckpt.pt", "--target", target]),
        (f"import export.{script}; export.{script}.main()", ["ckpt.pt", *options]),
    ):
        result = run_without([blocked], code, *arguments)
        assert (result.returncode, result.stderr.count("\n")) == (1, 1), result.stderr
        assert message in result.stderr


def test_a_missing_package_of_another_command_is_one_line(tmp_path):
    result = run_without(
        ["torch"], "from dhvt.cli.main import main; main()", "average", "a.pt", "b.pt", "--out", "c.pt", "--data", "."
    )
    assert (result.returncode, result.stderr) == (1, "Error: torch is not installed; pip install 'dhvt-serve[train]'\n")
