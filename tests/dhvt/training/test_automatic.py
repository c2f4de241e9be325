import tomllib

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from dhvt.cli.main import main
from dhvt.data.sources import open_dataset
from dhvt.model.checkpoint import load_checkpoint
from dhvt.model.config import VARIANTS
from dhvt.model.dhvt import DHVT
from dhvt.training.automatic import (
    SIZES,
    choose_epochs,
    choose_size,
    default_config,
    forward_gflop,
    sample_shorter_sides,
    sizes_that_fit,
    training_minutes,
)
from dhvt.training.config import Recipe, RunOptions
from tests.conftest import draw


def choose(median, budget=1e9, sizes=SIZES):
    return choose_size(median, lambda size: size**2, lambda cost: cost, sizes=sizes, budget=budget).img_size


@pytest.mark.parametrize(("median", "size"), [(20, 32), (32, 32), (33, 48), (100, 128), (128, 128), (3000, 224)])
def test_the_size_is_the_smallest_that_keeps_the_median(median, size):
    assert choose(median) == size


def test_a_time_budget_makes_images_smaller_but_never_less_than_the_smallest():
    assert choose(3000, budget=160**2) == 160
    assert choose(3000, budget=0) == 32
    chosen = choose_size(100, lambda size: size**2, lambda cost: cost, budget=64**2)
    assert (chosen.img_size, chosen.wanted_size, chosen.minutes) == (64, 128, 64**2)


@pytest.mark.parametrize("size", SIZES)
def test_the_default_model_has_64_to_196_patches_at_every_size(size):
    height, width = default_config(size).grid_size
    assert 64 <= height * width <= 196


def test_a_patch_size_that_is_given_limits_the_sizes():
    assert sizes_that_fit(4, 32) == (32, 48)
    assert sizes_that_fit(16, 224) == (128, 160, 224)
    assert sizes_that_fit(2, 32) == (32,)


@pytest.mark.parametrize(("images", "epochs"), [(50_000, 30), (1_281, 30), (640, 60), (450, 100), (100, 300), (1, 300)])
def test_small_sets_have_as_many_steps_as_larger_ones(images, epochs):
    assert choose_epochs(images, 128) == epochs


@pytest.mark.parametrize("config", [default_config(96), VARIANTS["dhvt_small_cifar_patch2"]])
def test_the_arithmetic_is_what_pytorch_counts(config):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        DHVT(config)(torch.empty(1, 3, *config.img_size))
    assert forward_gflop(config) == pytest.approx(counter.get_total_flops() / 1e9, rel=0.05)


def test_minutes_of_a_training_count_its_smaller_images():
    """Half of the steps with half as wide images: 5/8 of the arithmetic."""
    assert training_minutes(1.0, images=1000, epochs=2, gflops=100) == pytest.approx(1)
    half = ((0.5, 0.5), (1.0, 1.0))
    assert training_minutes(1.0, images=1000, epochs=2, resolutions=half, gflops=100) == pytest.approx(0.625)


def test_sides_are_read_upright_or_not_and_broken_images_are_omitted(tmp_path):
    (tmp_path / "a").mkdir()
    for name, size in (("1.png", (30, 50)), ("2.png", (60, 40))):
        Image.new("RGB", size).save(tmp_path / "a" / name)
    (tmp_path / "a" / "3.png").write_bytes(b"not an image")
    assert sorted(sample_shorter_sides(open_dataset(tmp_path)).tolist()) == [30, 40]


def test_auto_is_read_as_a_number_that_is_chosen_later():
    assert Recipe.preset("short") == Recipe.preset("short", epochs="auto")
    assert RunOptions(data="x", out="y", img_size="auto") == RunOptions(data="x", out="y")


TINY = ("--model-option", "depth=1", "--model-option", "embed_dim=32", "--resolutions", "1:1", "--batch-size", "16")


def train(data, out, *options):
    arguments = ["train", "--data", data, "--out", out, "--device", "cpu", *TINY, *options]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output, tomllib.loads((out / "config.toml").read_text())


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of eight images, 60 pixels wide and more."""
    root = tmp_path_factory.mktemp("photos")
    for label, name in enumerate("ab"):
        (root / name).mkdir()
        for seed in range(8):
            draw(label, seed, (60, 70)).save(root / name / f"{seed}.png")
    return root


@pytest.fixture(scope="module")
def chosen(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("chosen")
    return *train(photos, out, "--epochs", "1"), out


def test_the_choice_is_printed_and_recorded_as_plain_numbers(chosen):
    output, config, out = chosen
    assert "--img-size auto: 64 pixels, 64 patches of 8 pixels, the images' median shorter side is 60" in output
    assert "minutes of training by calculation" in output
    assert (config["img_size"], config["variant"], config["model_options"]["patch_size"]) == (64, "dhvt_tiny_cifar_patch4", 8)
    assert load_checkpoint(out / "ckpt.pt").config["patch_size"] == 8


def test_a_runs_report_says_what_else_its_images_were_used_for(chosen):
    for name in ("report.md", "report.html"):
        assert "These validation images also fitted the temperature, and may show" in (chosen[2] / "report" / name).read_text()


def test_the_recorded_configuration_repeats_the_run(chosen, photos, tmp_path):
    output, repeated = train(photos, tmp_path, "--config", chosen[2] / "config.toml")
    assert "auto" not in output.replace("--auto-minutes", "")
    assert repeated | {"out": ""} == chosen[1] | {"out": ""}


def test_epochs_are_chosen_where_none_are_given_and_kept_on_resuming(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("dhvt.training.automatic.FEWEST_EPOCHS", 1)
    monkeypatch.setattr("dhvt.training.automatic.STEPS", 2)
    output, config = train(photos, tmp_path, "--val-every", "9")
    assert "--epochs auto: 2 epochs of 1 steps, 2 in all" in output
    assert config["epochs"] == 2
    monkeypatch.setattr("dhvt.training.automatic.STEPS", 7)
    output, again = train(photos, tmp_path, "--val-every", "9", "--resume")
    assert "nothing to do" in output
    assert again == config


def test_a_file_to_resume_that_is_no_run_is_one_line(chosen, photos, tmp_path):
    """One of another program, and an imported model, which has no recipe."""
    for file, message in (({"weights": {}}, "is no checkpoint of dhvt train"), (imported(chosen[2]), "cannot resume")):
        torch.save(file, tmp_path / "ckpt.pt")
        arguments = ["train", "--data", str(photos), "--out", str(tmp_path), "--device", "cpu", *TINY, "--resume"]
        result = CliRunner().invoke(main, arguments)
        assert (result.exit_code, type(result.exception)) == (1, SystemExit), result.output
        assert message in result.output


def imported(run):
    return torch.load(run / "ckpt.pt", weights_only=True) | {"recipe": {}, "optimizers": []}


def test_weights_to_start_from_bring_their_model_and_size(chosen, image_folder, tmp_path):
    output, config = train(image_folder, tmp_path, "--epochs", "1", "--init", chosen[2] / "ckpt.pt")
    assert (config["img_size"], config["model_options"]["patch_size"]) == (64, 8)
    assert "--img-size auto" not in output


def test_a_given_variant_keeps_its_patches(photos, tmp_path):
    _, config = train(photos, tmp_path, "--epochs", "1", "--variant", "dhvt_tiny_cifar_patch4")
    assert (config["img_size"], "patch_size" in config["model_options"]) == (48, False)


def test_timms_models_are_given_a_size_too(photos, tmp_path, monkeypatch):
    from dhvt.training.choose import _gflop, _sizes

    options = RunOptions(data=str(photos), out=tmp_path, variant="resnet18")
    assert _sizes(options) == SIZES
    assert _gflop(options, 224) == pytest.approx(3.64, rel=0.05)
    assert _sizes(RunOptions(data="x", out=tmp_path, variant="vit_tiny_patch16_224")) == (32, 224)
