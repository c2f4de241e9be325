"""Nothing reports home: neither from a server nor from an export."""

import os
import subprocess
import sys

import pytest

ENGINES = """
from dhvt.artifact import load_artifact
from dhvt.engines import EngineOptions, build_engine
for candidate in ("onnxruntime:fp32", "openvino:fp32"):
    build_engine(load_artifact(sys.argv[1]), candidate, EngineOptions(threads=1, max_batch_size=1))
"""
EXPORT = """
import export.quantize, nncf, onnxruntime
onnxruntime.InferenceSession(sys.argv[1] + "/model.onnx")
"""


@pytest.mark.parametrize("code", [ENGINES, EXPORT])
def test_no_library_keeps_an_identifier_to_report_with(code, artifact_path, tmp_path):
    """Both ONNX Runtime and OpenVINO make one in the home folder when they are to report."""
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", f"import sys\n{code}", artifact_path], env=environment, check=True)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_bentoml_does_not_count_its_users():
    code = (
        "from bentoml._internal.utils.analytics.usage_stats import do_not_track\n"
        "assert not do_not_track()\nimport serving.service\nassert do_not_track()"
    )
    environment = {name: value for name, value in os.environ.items() if name != "BENTOML_DO_NOT_TRACK"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
