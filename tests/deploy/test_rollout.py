"""Servers behind HAProxy, as ``benchmarks/rollout.py`` runs them: no request is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "rollout.py"


def rollout(model, folder, *events):
    """The benchmark's line, of two servers that are asked little."""
    if shutil.which("haproxy") is None:
        pytest.skip("needs haproxy")
    command = [sys.executable, str(SCRIPT), "--replicas", "2", "--rate", "20", "--steady-s", "1", "--limit-s", "240"]
    command += ["--model", str(model), "--plot", str(folder / "plot.png"), "--events", *events]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DHVT_")}
    environ |= {"PYTHONPATH": str(SCRIPT.parents[1])}
    result = subprocess.run(command, env=environ, check=False, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr
    assert (folder / "plot.png").stat().st_size > 1000
    return json.loads(result.stdout)


def test_a_killed_server_loses_no_request(artifact_path, tmp_path):
    """One of two is killed, and comes back."""
    line = rollout(artifact_path, tmp_path, "kill")
    assert line["kill"]["sent"] > 20
    assert line["outcomes"] == {"200": line["sent"]}


@pytest.mark.slow
def test_a_new_model_loses_no_request(artifact_path, tmp_path):
    """Both get it, one after the other."""
    line = rollout(artifact_path, tmp_path, "roll")
    assert line["roll"]["sent"] > 20
    assert line["outcomes"] == {"200": line["sent"]}
    assert line["models_afterwards"] == ["dhvt_test_next"]
