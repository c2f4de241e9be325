import json
import subprocess
import sys
from dataclasses import replace

import pytest
from click.testing import CliRunner

from dhvt.artifact import load_artifact, write_card
from dhvt.cli import main
from tests.conftest import draw


@pytest.fixture
def dhvt():
    return lambda *arguments: CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_help_teaches_the_whole_way():
    result = subprocess.run([sys.executable, "-m", "dhvt.cli", "--help"], capture_output=True, text=True, check=True)
    for word in ("dhvt train", "export/to_onnx.py", "bentoml serve"):
        assert word in result.stdout


def test_evaluate_and_record(dhvt, artifact_copy, picture_folder):
    report = artifact_copy.parent / "report"
    result = dhvt("evaluate", "--model", artifact_copy, "--data", picture_folder, "--record", "--report", report)
    assert result.exit_code == 0, result.output
    recorded = load_artifact(artifact_copy).card.metrics
    assert recorded["val_top1"] == 33.3
    assert recorded["test"]["images"] == 60
    text = (report / "report.md").read_text()
    assert f"| top-1 | {recorded['test']['top1']:.2f} % |" in text
    assert "| circle | 20 |" in text
    assert {path.name for path in report.glob("*.png")} == {"confusion.png", "reliability.png", "mistakes.png"}
    assert f"top-1 {recorded['test']['top1']:.2f} %" in result.stdout


def test_evaluate_takes_the_test_part_before_the_validation_part(dhvt, artifact_path, tmp_path):
    for part, count in (("train", 3), ("val", 2), ("test", 1)):
        (tmp_path / part / "circle").mkdir(parents=True)
        for seed in range(count):
            draw(0, seed).save(tmp_path / part / "circle" / f"{seed}.png")
    result = dhvt("evaluate", "--model", artifact_path, "--data", tmp_path)
    assert result.exit_code == 0, result.output
    assert "of 1 pictures" in result.output


def test_verify_proves_every_engine_here(dhvt, artifact_path, picture_folder):
    result = dhvt("verify", "--model", artifact_path, "--data", picture_folder)
    assert result.exit_code == 0, result.output
    for engine in ("openvino:fp32", "onnxruntime:fp32"):
        assert f"{engine}: passes its self-test, top-1 " in result.output
    assert "% of 60" in result.output


def test_verify_fails_where_nothing_passes(dhvt, artifact_copy):
    card = load_artifact(artifact_copy).card
    wrong = (card.golden.expected() + 1).tolist()
    write_card(artifact_copy, replace(card, golden=replace(card.golden, logits=wrong)))
    result = dhvt("verify", "--model", artifact_copy)
    assert result.exit_code == 1
    assert "onnxruntime:fp32: no engine can serve" in result.output
    assert "is off by 1" in result.output


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_classify(dhvt, artifact_path, tmp_path, engine):
    draw(1, 5).save(tmp_path / "a.png")
    result = dhvt("classify", "--model", artifact_path, "--engine", engine, "--json", tmp_path / "a.png")
    answer = json.loads(result.stdout.splitlines()[-1])
    assert result.exit_code == 0
    assert sum(entry["score"] for entry in answer["predictions"]) == pytest.approx(1, abs=1e-4)


def test_classify_goes_on_after_a_broken_picture(dhvt, artifact_path, tmp_path):
    (tmp_path / "a.png").write_bytes(b"nothing")
    draw(1, 5).save(tmp_path / "b.png")
    result = dhvt("classify", "--model", artifact_path, tmp_path / "a.png", tmp_path / "absent.png", tmp_path / "b.png")
    assert result.exit_code == 1
    assert "a.png: not an image" in result.output
    assert "absent.png: cannot read" in result.output
    assert "b.png: " in result.output


def test_a_missing_model_is_one_line(dhvt, tmp_path):
    result = dhvt("classify", "--model", tmp_path / "absent", "cat.jpg")
    assert result.exit_code == 1
    assert "is no model folder" in result.output
