"""The names of ``from dhvt import …``, their types for mypy, and their examples in docs/python.md."""

import ast
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import dhvt

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL))


def test_the_public_names():
    assert dhvt.__all__ == [
        "Classifier",
        "DHVTError",
        "ImageError",
        "Prediction",
        "Recipe",
        "RunOptions",
        "create_model",
        "evaluate",
        "load_artifact",
        "load_checkpoint",
        "open_dataset",
        "train",
    ]
    assert set(dhvt.__all__) <= set(dir(dhvt))
    for name in dhvt.__all__:
        assert getattr(dhvt, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'dhvt' has no attribute 'Clasifier'"):
        _ = dhvt.Clasifier
    with pytest.raises(ImportError):
        from dhvt import Clasifier  # noqa: F401  # the import itself is what fails


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(dhvt.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {alias.asname: node.module for node in block.body for alias in node.names}
    assert imported == dhvt._MODULES


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import dhvt", ["numpy", "torch", "PIL", "timm", "click", "openvino"]),
        ("from dhvt import Classifier, evaluate, load_artifact, open_dataset, Recipe, RunOptions", ["torch", "timm"]),
        ("from dhvt import Classifier", ["torch", "timm", "openvino", "onnxruntime", "bentoml", "serving"]),
    ],
)
def test_importing_a_name_imports_no_more_than_it_needs(code, absent):
    check = f"import sys\n{code}\nassert not {absent} & sys.modules.keys(), {absent} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", check.replace("[", "{").replace("]", "}")], check=True, cwd=ROOT)


def test_every_public_name_has_an_example():
    imported = {alias.name for node in ast.walk(ast.parse(EXAMPLES)) if isinstance(node, ast.ImportFrom)
                for alias in node.names if node.module == "dhvt"}  # fmt: skip
    assert imported == set(dhvt.__all__)


def test_the_examples_run(image_folder, artifact_path, tmp_path, monkeypatch, capsys):
    """With a training of one small step; the artifact, which ``dhvt export`` makes of it, is the tests'."""

    def train(options, recipe):
        (options.out / "artifact").parent.mkdir(parents=True)
        (options.out / "artifact").symlink_to(artifact_path)
        small = {"depth": 1, "embed_dim": 32, "num_heads": 4}
        return real(replace(options, model_options=small), replace(recipe, epochs=1, batch_size=60))

    real = dhvt.train
    monkeypatch.setattr(dhvt, "train", train)
    monkeypatch.chdir(tmp_path)
    Path("images").symlink_to(image_folder)
    exec(compile(EXAMPLES, "docs/python.md", "exec"), {"__name__": "examples"})
    printed = capsys.readouterr().out
    assert "images/circle/00.png circle" in printed or "images/circle/00.png s" in printed
    assert "torch.Size([1, 10])" in printed
    assert "images is no model folder" in printed
