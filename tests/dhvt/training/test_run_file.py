"""``--config run.toml`` and each run's own ``config.toml``."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from dhvt.cli.main import main
from dhvt.errors import ConfigError, TrainError
from dhvt.model.checkpoint import load_checkpoint, save_checkpoint
from dhvt.training.config import Recipe, RunOptions
from dhvt.training.fields import UNCHOSEN, options_of
from dhvt.training.run_file import build_config, merge_values, read_config, write_config
from tests.dhvt.training.commands import SMALL, run


def dhvt_train(*arguments):
    return CliRunner().invoke(main, ["train", *map(str, arguments)])


def test_the_config_of_a_run_repeats_it_bit_for_bit(image_folder, tmp_path):
    options = [*SMALL, "--epochs", "1", "--cutmix", "1", "--mix-prob", "0.5", "--resize-mode", "pad", "--val-fraction", "0.2"]
    assert run(image_folder, tmp_path / "first", *options).exit_code == 0
    result = dhvt_train("--config", tmp_path / "first" / "config.toml", "--out", tmp_path / "again")
    assert result.exit_code == 0, result.output
    first, again = (load_checkpoint(tmp_path / name / "ckpt.pt") for name in ("first", "again"))
    assert first.preprocess["resize_mode"] == "pad"
    for kind in ("weights", "ema"):
        expected, got = getattr(first, kind), getattr(again, kind)
        assert all(torch.equal(expected[name], got[name]) for name in expected), kind
    for name in ("recipe", "config", "preprocess", "data", "temperature"):
        assert getattr(first, name) == getattr(again, name), name
    refused = dhvt_train("--config", tmp_path / "first" / "config.toml")
    assert "ckpt.pt exists" in refused.output
    resumed = dhvt_train("--config", tmp_path / "first" / "config.toml", "--resume")
    assert "nothing to do" in resumed.output
    older = {name: value for name, value in first.preprocess.items() if not name.endswith("_white")}
    assert len(older) == len(first.preprocess) - 2
    save_checkpoint(replace(first, preprocess=older), tmp_path / "first" / "ckpt.pt")
    resumed = dhvt_train("--config", tmp_path / "first" / "config.toml", "--resume")
    assert "this run is finished" in resumed.output


def test_the_command_line_comes_before_the_file_and_the_file_before_the_preset(image_folder, tmp_path):
    """The file is a recipe of one's own, on top of a preset."""
    path = tmp_path / "mine.toml"
    path.write_text('recipe = "cifar100"\nepochs = 7\nlr = 1\nfreeze = true\n[model_options]\ndepth = 2\nembed_dim = 32\n')
    options = ["--config", path, "--data", image_folder, "--out", tmp_path / "out", "--no-freeze", "--repeats", "1"]
    result = dhvt_train(*options, "--epochs", "1", "--device", "cpu", "--batch-size", "54", "--model-option", "depth=1")
    assert result.exit_code == 0, result.output
    checkpoint = load_checkpoint(tmp_path / "out" / "ckpt.pt")
    expected = Recipe.preset("cifar100", epochs=1, batch_size=54, lr=1.0, repeats=1)
    assert checkpoint.recipe == expected.to_dict()
    assert (checkpoint.config["depth"], checkpoint.config["embed_dim"], checkpoint.frozen) == (1, 32, False)


def test_a_preset_on_the_command_line_replaces_the_recipe_of_the_file(tmp_path):
    write_config(tmp_path / "config.toml", RunOptions(data="images", out="out", val_every=3), Recipe.preset("short", lr=1))
    values = read_config(tmp_path / "config.toml")
    options, recipe = build_config(merge_values(values, {"recipe": "cifar100", "epochs": 7}))
    assert (options.recipe, options.val_every, recipe) == ("cifar100", 3, Recipe.preset("cifar100", epochs=7))
    assert build_config(merge_values(values, {"epochs": 7}))[1] == Recipe.preset("short", lr=1, epochs=7)


def test_the_command_line_names_the_preset(monkeypatch, tmp_path):
    write_config(tmp_path / "config.toml", RunOptions(data="images", out="out"), Recipe.preset("short"))
    seen = []

    def stop(options, recipe, command):
        seen.append(recipe)
        raise TrainError("stop")

    monkeypatch.setattr("dhvt.training.trainer.train", stop)
    dhvt_train("--config", tmp_path / "config.toml", "--recipe", "cifar10", "--epochs", "2")
    assert seen == [Recipe.preset("cifar10", epochs=2)]


def test_a_config_that_cannot_be_written_leaves_the_older_one(monkeypatch, tmp_path):
    path, options = tmp_path / "config.toml", RunOptions(data="images", out="out")
    write_config(path, options, Recipe())
    before = path.read_text()

    def fill_disk(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fill_disk)
    with pytest.raises(TrainError, match="No space left"):
        write_config(path, options, Recipe(epochs=3))
    assert path.read_text() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.toml"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "unknown key 'epoch'; did you mean 'epochs'?"),
        ("zzzz = 3", "its keys are the options of dhvt train"),
        ('epochs = "3"', "epochs is '3'; expected a whole number"),
        ("epochs = -1", 'epochs is -1; it must be at least 1, or "auto"'),
        ("num_workers = -1", 'num_workers is -1; it must be at least 0, or "auto"'),
        ("epochs = 0", "epochs is 0; it must be at least 1"),
        ('amp = "fp8"', "amp is 'fp8'; choose one of auto, bf16, fp16, off"),
        ("resolutions = [1, 2]", "expected pairs of numbers"),
        ("epochs 3", "is not a TOML file"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line(tmp_path, text, message):
    (tmp_path / "run.toml").write_text(text)
    result = dhvt_train("--config", tmp_path / "run.toml", "--data", "images", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert message in result.output
    assert "run.toml" in result.output
    assert isinstance(result.exception, SystemExit)


def test_a_missing_file_and_missing_options_are_one_line(tmp_path):
    assert "cannot read --config" in dhvt_train("--config", tmp_path / "absent.toml").output
    assert "--data and --out must be given" in dhvt_train().output


def test_a_file_without_an_image_size_resumes_at_the_run_s(unbroken, tmp_path):
    """As files of older versions are; by itself auto would take 48 pixels of these images."""
    out = Path(shutil.copytree(unbroken[2], tmp_path / "run"))
    lines = (out / "config.toml").read_text().splitlines()
    (tmp_path / "run.toml").write_text("\n".join(line for line in lines if not line.startswith("img_size")))
    result = dhvt_train("--config", tmp_path / "run.toml", "--out", out, "--resume")
    assert result.exit_code == 0, result.output
    assert "img_size = 32\n" in (out / "config.toml").read_text()


def test_every_value_survives_the_file(tmp_path):
    odd = 'a "quoted" \\ name, \n π, \x7f \x01'
    options = RunOptions(
        data=odd,
        out=Path("out put"),
        img_size=64,
        model_options={odd: odd, "flag": True, "sizes": [1, 2.5], "table": {"deep": [{"a": 1}]}},
        checkpoint_minutes=1e-9,
        cache=True,
    )
    recipe = Recipe.preset("short", lr=1.5e-7, seed=2**40)
    write_config(tmp_path / "config.toml", options, recipe)
    assert (options.num_workers, recipe.epochs) == (UNCHOSEN, UNCHOSEN)  # auto
    assert build_config(read_config(tmp_path / "config.toml")) == (options, recipe)


def test_every_field_is_an_option_with_help_in_optimised_python_too():
    command = [sys.executable, "-OO", "-m", "dhvt.cli", "train", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    shown = "".join(result.stdout.split())
    assert "Train a DHVT" in result.stdout
    for entry in (*options_of(RunOptions), *options_of(Recipe)):
        assert entry.flag.removesuffix("s") in result.stdout, entry.name
        assert "".join(entry.help.split()) in shown, entry.name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"freeze": True}, "give the weights to keep with --init"),
        ({"val_fraction": 1.0}, "between 0 and 1"),
        ({"num_workers": True}, "expected a whole number"),
    ],
)
def test_options_that_exclude_each_other_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        RunOptions(data="images", out="out", **values)


@pytest.mark.parametrize(("name", "flag"), [("num_classes", "--data"), ("img_size", "--img-size")])
def test_what_other_options_decide_is_no_model_option(image_folder, tmp_path, name, flag):
    result = run(image_folder, tmp_path, "--epochs", "1", "--model-option", f"{name}=64")
    assert result.exit_code == 1
    assert flag in result.output
    assert isinstance(result.exception, SystemExit)
