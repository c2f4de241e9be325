"""Going on with a run: with the same options, or with another recipe."""

import shutil

import pytest
import torch

from dhvt.model.checkpoint import load_checkpoint
from tests.dhvt.training.commands import SMALL, run, start, wait_until


def test_resuming_with_another_recipe_says_what_differs(image_folder, unbroken, tmp_path):
    shutil.copy(unbroken[2] / "ckpt.pt", tmp_path)
    result = run(image_folder, tmp_path, "--epochs", "3", "--drop-path-rate", "0.2", "--resume")
    assert result.exit_code == 1
    assert "epochs 2, now 3" in result.output


def test_a_finished_run_can_be_extended_and_says_so(image_folder, unbroken, tmp_path):
    shutil.copy(unbroken[2] / "ckpt.pt", tmp_path)
    options = ["--epochs", "3", "--drop-path-rate", "0.2", "--cutmix", "1", "--mix-prob", "0.5", "--resume", "--change-recipe"]
    assert run(image_folder, tmp_path, *options).exit_code == 0
    extended = load_checkpoint(tmp_path / "ckpt.pt")
    assert extended.step == 9
    assert [entry["from_step"] for entry in extended.provenance["commands"]] == [0, 6]
    refused = run(image_folder, tmp_path, *options, "--seed", "5")
    assert "seed 0, now 5" in refused.output


def test_a_changed_recipe_brings_its_weight_decay_and_its_moving_average(image_folder, tmp_path):
    options = [*SMALL, "--val-every", "9", "--change-recipe", "--resume"]
    assert run(image_folder, tmp_path, *options, "--epochs", "1", "--ema-decay", "0").exit_code == 0
    before = load_checkpoint(tmp_path / "ckpt.pt")
    options += ["--epochs", "2", "--weight-decay", "0.3", "--lr", "1e-9", "--min-lr", "0"]
    assert run(image_folder, tmp_path, *options, "--ema-decay", "0.998").exit_code == 0
    after = load_checkpoint(tmp_path / "ckpt.pt")
    assert {group["weight_decay"] for state in after.optimizers for group in state["param_groups"]} == {0.0, 0.3}
    assert before.ema is None
    for name, weight in before.weights.items():
        if weight.is_floating_point() and "running" not in name:
            assert torch.allclose(after.ema[name], weight, atol=1e-5), name


def test_a_run_that_a_changed_recipe_ends_is_measured_and_saved(image_folder, tmp_path):
    process = start(image_folder, tmp_path, "--epochs", "50", "--val-every", "50")
    path = tmp_path / "ckpt.pt"
    assert wait_until(lambda: path.exists() and load_checkpoint(path).step >= 3), "no checkpoint appeared"
    process.kill()
    process.wait(timeout=60)
    epochs = load_checkpoint(path).step // 3
    result = run(image_folder, tmp_path, "--epochs", str(epochs), "--val-every", "50", "--resume", "--change-recipe")
    assert result.exit_code == 0, result.output
    saved = load_checkpoint(path)
    assert (saved.recipe["epochs"], saved.temperature) == (epochs, saved.metrics["temperature"])
    assert f"validation top-1 {saved.metrics['val_top1']:.2f} % (" in result.output
    assert f"with {saved.metrics['val_images']} images); saved {path}" in result.output


def resume(data, unbroken, tmp_path, *options):
    """Goes on with a copy of the finished run."""
    shutil.copy(unbroken[2] / "ckpt.pt", tmp_path)
    recipe = ["--epochs", "2", "--drop-path-rate", "0.2", "--cutmix", "1", "--mix-prob", "0.5"]
    return run(data, tmp_path, *recipe, "--resume", *options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--val-fraction", "0.2"], "val_fraction 0.1, now 0.2"),
        (["--resize-mode", "pad"], "preprocessing is resize_mode 'crop', now 'pad'"),
        (["--freeze"], "--freeze is False, now True"),
    ],
)
def test_resuming_with_another_split_or_preparation_is_refused(image_folder, unbroken, tmp_path, options, message):
    result = resume(image_folder, unbroken, tmp_path, *options)
    assert result.exit_code == 1
    assert message in result.output
    assert isinstance(result.exception, SystemExit)


def test_fewer_epochs_than_were_trained_are_refused(image_folder, unbroken, tmp_path):
    """Their figures would be of other weights than of these epochs."""
    result = resume(image_folder, unbroken, tmp_path, "--change-recipe", "--epochs", "1")
    assert (result.exit_code, "give --epochs 2 or more" in result.output) == (1, True)


def test_resuming_with_other_images_is_refused_but_not_with_the_same_elsewhere(image_folder, unbroken, tmp_path):
    data = shutil.copytree(image_folder, tmp_path / "data")
    assert resume(data, unbroken, tmp_path).exit_code == 0
    (data / "circle" / "00.png").rename(data / "circle" / "new.png")
    result = resume(data, unbroken, tmp_path)
    assert result.exit_code == 1
    assert "with the same readable images in them" in result.output


def test_a_checkpoint_from_before_data_was_recorded_still_resumes(image_folder, unbroken, tmp_path):
    values = torch.load(unbroken[2] / "ckpt.pt", weights_only=True)
    del values["data"], values["frozen"], values["recipe"]["schedule"]
    torch.save(values, tmp_path / "ckpt.pt")
    options = ["--epochs", "3", "--drop-path-rate", "0.2", "--cutmix", "1", "--mix-prob", "0.5", "--val-fraction", "0.1"]
    frozen = run(image_folder, tmp_path, *options, "--resume", "--change-recipe", "--freeze")
    assert "with or without --freeze" in frozen.output
    assert run(image_folder, tmp_path, *options, "--resume", "--change-recipe").exit_code == 0
    assert load_checkpoint(tmp_path / "ckpt.pt").data["training"]["images"] == 54
