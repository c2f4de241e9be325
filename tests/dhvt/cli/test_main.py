import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from click.testing import CliRunner

from dhvt.artifact import Variant, load_artifact, write_card
from dhvt.cli.main import main
from dhvt.data.preprocess import preprocess_image
from dhvt.engines.openvino import OpenVINOEngine
from tests.conftest import draw


@pytest.fixture
def dhvt():
    return lambda *arguments: CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_help_teaches_the_whole_way():
    result = subprocess.run([sys.executable, "-m", "dhvt.cli", "--help"], capture_output=True, text=True, check=True)
    for word in ("dhvt train", "dhvt export", "bentoml serve"):
        assert word in result.stdout


@pytest.mark.parametrize(("command", "hint"), [("trian", "Did you mean 'train'?"), ("fly", "")])
def test_a_command_that_does_not_exist(dhvt, command, hint):
    result = dhvt(command)
    assert result.exit_code == 2
    assert result.output.endswith(f"Error: No such command '{command}'. {hint}".rstrip() + "\n")


def test_verify_proves_every_engine_here(dhvt, artifact_path, image_folder):
    result = dhvt("verify", "--model", artifact_path, "--data", image_folder)
    assert result.exit_code == 0, result.output
    error = r"logits off by at most \S+, on average \S+, same top-1 for 100\.00%"
    for engine in ("openvino:fp32", "onnxruntime:fp32"):
        assert re.search(rf"{engine}: the model's own images, batches of 1, 7, 32: {error}\n", result.output)
        assert re.search(rf"{engine}: 60 images, batches of 32, beside fp32: {error}, top-1 \S+ % ", result.output)
        assert f"{engine}: passes\n" in result.output


def test_verify_leaves_out_what_is_not_here(dhvt, artifact_copy):
    """An engine for a TensorRT that is not installed, or a GPU that is not there, is no disagreement."""
    card = load_artifact(artifact_copy).card
    hardware = {"flavour": "tensorrt", "version": "1.0.0", "platform": "", "compute_capabilities": ["1.0"]}
    hardware |= {"profile": {"min_batch_size": 1, "max_batch_size": 8}, "onnx_sha256": card.files["model.onnx"]}
    (artifact_copy / "model.engine").touch()
    engine = Variant(format="tensorrt", precision="fp16", files=("model.engine",), hardware=hardware)
    write_card(artifact_copy, card.with_variant(engine))
    result = dhvt("verify", "--model", artifact_copy)
    assert "tensorrt:fp16: not here: the engine " in result.output
    assert result.exit_code == 0, result.output


def test_verify_fails_where_nothing_passes(dhvt, artifact_copy):
    card = load_artifact(artifact_copy).card
    wrong = (card.golden.expected() + 1).tolist()
    write_card(artifact_copy, replace(card, golden=replace(card.golden, logits=wrong)))
    result = dhvt("verify", "--model", artifact_copy)
    assert result.exit_code == 1
    assert "onnxruntime:fp32: FAILS: " in result.output
    assert "is off by 1" in result.output


def test_verify_fails_where_one_engine_is_off(dhvt, artifact_path, monkeypatch):
    right = OpenVINOEngine.predict
    monkeypatch.setattr(OpenVINOEngine, "predict", lambda self, images: right(self, images) + 0.5)
    result = dhvt("verify", "--model", artifact_path)
    assert result.exit_code == 1
    assert "onnxruntime:fp32: passes" in result.output
    assert "openvino:fp32: FAILS: largest logit error 0.5 (at most 0.002)" in result.output


def test_verify_fails_where_an_engine_is_wrong_on_other_images_only(dhvt, artifact_path, image_folder, monkeypatch):
    right, card = OpenVINOEngine.predict, load_artifact(artifact_path).card
    golden = {preprocess_image(image, card.preprocess).tobytes() for image in card.golden.encoded()}

    def predict(self, images):
        logits = right(self, images)
        return logits if images[0].tobytes() in golden else logits[:, ::-1]

    monkeypatch.setattr(OpenVINOEngine, "predict", predict)
    result = dhvt("verify", "--model", artifact_path, "--data", image_folder)
    assert result.exit_code == 1
    assert re.search(r"openvino:fp32: FAILS: largest logit error .*, same top-1 for [0-9.]+% \(at least 99\.", result.output)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_classify(dhvt, artifact_path, tmp_path, engine):
    draw(1, 5).save(tmp_path / "a.png")
    result = dhvt("classify", "--model", artifact_path, "--engine", engine, "--json", tmp_path / "a.png")
    answer = json.loads(result.stdout.splitlines()[-1])
    assert result.exit_code == 0
    assert sum(entry["score"] for entry in answer["predictions"]) == pytest.approx(1, abs=1e-4)


def test_an_engine_in_the_environment_is_an_order(dhvt, artifact_path, tmp_path, monkeypatch):
    draw(1, 5).save(tmp_path / "a.png")
    monkeypatch.setenv("DHVT_ENGINE", "tensorrt")
    result = dhvt("classify", "--model", artifact_path, tmp_path / "a.png")
    assert result.exit_code == 1
    assert "no engine can serve this model here; tensorrt: the model has no TensorRT engine" in result.output
    assert dhvt("classify", "--model", artifact_path, "--engine", "onnxruntime", tmp_path / "a.png").exit_code == 0


def test_the_command_line_does_not_import_the_server():
    code = "import sys, dhvt.cli.classify, dhvt.cli.verify, dhvt.engines.settings\nassert 'serving' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_classify_goes_on_after_a_broken_image(dhvt, artifact_path, tmp_path):
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


def test_a_name_that_is_no_text_is_printed_with_escapes():
    script = (
        "import contextlib, sys; from dhvt.cli.main import run; sys.argv = ['dhvt', '--version']\n"
        "with contextlib.suppress(SystemExit): run()\n"
        "print('caf\\udce9')"
    )
    environ = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    result = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "caf\\udce9"
