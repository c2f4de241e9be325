"""The session for the first GPU, on a CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu_session.py"


def session(out, *options):
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--small", "--out", str(out), *options]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    return result.returncode, [json.loads(line) for line in out.read_text().splitlines()]


def test_a_session_goes_on_behind_its_last_line(tmp_path):
    out = tmp_path / "session.jsonl"
    out.write_text('{"step": "inference"}\n')
    code, lines = session(out, "--only", "inference", "versions")
    assert code == 0
    assert [line["step"] for line in lines] == ["inference", "versions"]
    assert lines[1]["packages"]["torch"]


@pytest.mark.slow
def test_all_steps_of_a_session_run_on_a_cpu(tmp_path):
    _, lines = session(tmp_path / "session.jsonl", "--minutes", "20")
    assert [line["step"] for line in lines] == [
        *("versions", "inference", "train_step", "augmentation", "onnx", "tests", "server", "training")
    ]
    assert not [line for line in lines if "error" in line and line["step"] != "server"]  # which needs wrk


def test_its_training_step_is_one_of_whole_images_with_a_usual_learning_rate(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import gpu_steps

    setting = gpu_steps.Setting(device="cpu", small=True, data=None, out=Path("session.jsonl"), seconds=1)
    state, _ = gpu_steps.make_trainer(setting, compiled=False, recipe_name="short")
    state.step = 200
    assert 0 < state.learning_rate() <= state.recipe.lr
    assert state.recipe.scale_at(0) == 1
