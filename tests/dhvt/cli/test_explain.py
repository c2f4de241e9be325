"""``dhvt explain``: a drawing, JSON, and errors in one line."""

import json

import pytest
from click.testing import CliRunner
from PIL import Image

from dhvt.cli.main import main
from tests.conftest import draw


@pytest.fixture
def explain(artifact_path, tmp_path):
    draw(0, 0).save(tmp_path / "cat.png")

    def run(*arguments):
        command = ["explain", "--model", artifact_path, "--engine", "onnxruntime", *arguments, tmp_path / "cat.png"]
        return CliRunner().invoke(main, [str(argument) for argument in command])

    return run


def test_a_picture_is_written(explain, tmp_path):
    result = explain("--masks", "8", "--label", "square", "-o", tmp_path / "why.png")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("square ")
    with Image.open(tmp_path / "why.png") as image:
        assert image.format == "PNG"


def test_the_maps_are_printed_as_json(explain):
    result = explain("--method", "head-tokens", "--layer", "1", "--json")
    answer = json.loads(result.stdout)
    assert (answer["method"], answer["layer"], len(answer["maps"]), answer["model"]) == ("head-tokens", 1, 6, "dhvt_test")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([], 2, "give -o FILE.png, or --json"),
        (["--json", "--label", "cat"], 1, "the model's classes are circle, square, stripes"),
        (["--json", "--layer", "1"], 1, "masking takes none"),
        (["--json", "--seed", "-1"], 2, "-1 is not in the range x>=0"),
        (["--json", "--method", "gradcam"], 2, "'gradcam' is not one of 'masking'"),
        (["-o", "/absent/why.png", "--masks", "2"], 1, "cannot write /absent/why.png: No such file"),
    ],
)
def test_errors_are_one_line(explain, options, code, message):
    result = explain(*options)
    assert (result.exit_code, message in result.stderr) == (code, True), result.output
    assert "Traceback" not in result.output


def test_a_broken_file_is_named(explain, tmp_path):
    (tmp_path / "cat.png").write_bytes(b"no image")
    result = explain("--json")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.output
    assert result.stderr.startswith(f"Error: {tmp_path / 'cat.png'}: ")
