"""Through the command line, as a user trains."""

import json
import shlex
import shutil

import pytest
import torch

from dhvt.model.checkpoint import load_checkpoint
from dhvt.training.config import Recipe, preset_names
from dhvt.training.step import TrainState
from tests.conftest import CLASSES
from tests.dhvt.training.commands import SMALL, run


def test_a_small_folder_trains_end_to_end(unbroken):
    result, checkpoint, out = unbroken
    assert "54 images to train on, 6 to measure on (0.1 of each class, held out), 3 classes" in result.output
    assert checkpoint.classes == CLASSES
    assert checkpoint.step == 6
    assert checkpoint.metrics["val_images"] == 6
    assert "--cutmix 1" in checkpoint.provenance["commands"][0]["command"]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    report = (out / "report" / "report.md").read_text()
    assert "--cutmix 1" in report
    assert all((out / "report" / f"{name}.png").stat().st_size for name in ("curves", "confusion", "reliability", "mistakes"))


def test_a_second_run_does_not_overwrite_the_first(image_folder, unbroken):
    result = run(image_folder, unbroken[2], "--epochs", "2")
    assert result.exit_code == 1
    assert "--resume" in result.output


def test_validation_can_be_rarer_than_epochs_but_never_misses_the_last(image_folder, tmp_path):
    assert run(image_folder, tmp_path, *SMALL, "--epochs", "3", "--val-every", "2").exit_code == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [2, 3]
    assert load_checkpoint(tmp_path / "ckpt.pt").metrics["epoch"] == 3


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(image_folder, tmp_path):
    options = ["--lr", "1e30", "--optimizer", "adamw", "--warmup-epochs", "0", "--epochs", "2"]
    result = run(image_folder, tmp_path, *SMALL, *options)
    assert result.exit_code == 1
    assert "the loss became" in result.output
    assert isinstance(result.exception, SystemExit)


def test_a_full_gpu_says_what_needs_less(image_folder, tmp_path, monkeypatch):
    def fill(state, batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(TrainState, "train_batch", fill)
    result = run(image_folder, tmp_path, *SMALL, "--epochs", "1", "--accumulate", "2")
    assert result.exit_code == 1
    assert "CUDA out of memory" in result.output
    assert "give --accumulate 4" in result.output


def test_weights_that_are_not_finite_do_not_replace_the_checkpoint(image_folder, tmp_path, monkeypatch):
    """With one step an epoch, the loss of the step that spoils the weights is still finite when they are to be saved."""
    options = [*SMALL, "--batch-size", "64"]
    assert run(image_folder, tmp_path, *options, "--epochs", "1").exit_code == 0
    before = (tmp_path / "ckpt.pt").read_bytes()

    def overshoot(optimizer, closure=None):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.data.fill_(float("inf"))

    monkeypatch.setattr("dhvt.training.muon.Muon.step", overshoot)
    result = run(image_folder, tmp_path, *options, "--epochs", "2", "--resume", "--change-recipe")
    assert result.exit_code == 1
    assert "is no longer finite after step 2; the last checkpoint is untouched" in result.output
    assert (tmp_path / "ckpt.pt").read_bytes() == before
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_takes_a_step(image_folder, tmp_path, name):
    """With all of its augmentation and mixing, and clipped gradients, on a small model."""
    options = [*SMALL, "--epochs", "1", "--batch-size", "54", "--clip-grad", "1"]
    result = run(image_folder, tmp_path, "--recipe", name, *options)
    assert result.exit_code == 0, result.output
    checkpoint = load_checkpoint(tmp_path / "ckpt.pt")
    assert (checkpoint.step, checkpoint.metrics["val_images"]) == (1, 6)
    assert checkpoint.recipe == Recipe.preset(name, epochs=1, batch_size=54, clip_grad=1.0).to_dict()


def test_a_last_odd_image_prevents_neither_mixing_nor_the_right_learning_rate(image_folder, tmp_path):
    """53 images to train on, in one batch of 52."""
    data = shutil.copytree(image_folder, tmp_path / "data")
    (data / "circle" / "00.png").unlink()
    tiny = [*SMALL, "--epochs", "1", "--repeats", "1", "--warmup-epochs", "0", "--batch-size", "512"]
    for name, mixing in (("mixup", ["--cutmix", "0"]), ("cutmix", ["--mixup", "0"])):
        result = run(data, tmp_path / name, "--recipe", "cifar100", *tiny, *mixing)
        assert result.exit_code == 0, result.output
    mixup, cutmix = (load_checkpoint(tmp_path / name / "ckpt.pt") for name in ("mixup", "cutmix"))
    assert mixup.data["training"]["images"] == 53
    assert mixup.metrics["lr"] == pytest.approx(1e-3 * 52 / 512)
    assert not torch.equal(mixup.weights["head.weight"], cutmix.weights["head.weight"])
    refused = run(data, tmp_path / "odd", "--recipe", "cifar100", *tiny, "--batch-size", "15")
    assert "a batch of 15 does not divide by 2" in refused.output


@pytest.mark.parametrize(("policy", "code"), [("stop", 1), ("skip", 0)])
def test_a_broken_image_stops_or_is_left_out(image_folder, tmp_path, policy, code):
    data = shutil.copytree(image_folder, tmp_path / "data")
    (data / "circle" / "03.png").write_bytes(b"no image")
    result = run(data, tmp_path / "out", *SMALL, "--epochs", "1", "--on-broken", policy)
    assert result.exit_code == code
    assert "03.png: not an image" in result.output
    if policy == "skip":
        assert load_checkpoint(tmp_path / "out" / "ckpt.pt").metrics["broken_images"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "long"], "no recipe 'long'"),
        (["--img-size", "30"], "does not divide into patches"),
        (["--device", "cuda:7"], "cannot be used here"),
        (["--data", "/nowhere"], "does not exist"),
        (["--out", "/dev/null/x"], "cannot make the folder /dev/null/x"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(image_folder, tmp_path, options, message):
    result = run(image_folder, tmp_path, *options)
    assert result.exit_code == 1
    assert message in result.output
    assert isinstance(result.exception, SystemExit)


def test_a_wrong_folder_of_images_leaves_no_folder_of_a_run(tmp_path):
    assert run(tmp_path / "imgaes", tmp_path / "runs" / "mine").exit_code == 1
    assert not (tmp_path / "runs").exists()
    (tmp_path / "own").mkdir()
    assert run(tmp_path / "imgaes", tmp_path / "own").exit_code == 1
    assert (tmp_path / "own").is_dir()


def test_accumulated_micro_batches_are_one_step(image_folder, tmp_path):
    """A model without BatchNorm, whose statistics are those of each micro-batch."""
    options = ["--epochs", "1", "--optimizer", "adamw", "--drop-path-rate", "0", "--amp", "off"]
    options += ["--variant", "vit_tiny_patch16_224", "--model-option", "depth=2"]
    for count in ("1", "4"):
        assert run(image_folder, tmp_path / count, *options, "--accumulate", count).exit_code == 0
    whole, cut = (load_checkpoint(tmp_path / count / "ckpt.pt") for count in ("1", "4"))
    assert whole.step == cut.step
    for name, weight in whole.weights.items():
        torch.testing.assert_close(cut.weights[name], weight, rtol=1e-3, atol=1e-3, msg=name)


def test_the_next_command_quotes_paths(image_folder, tmp_path):
    data = shutil.copytree(image_folder, tmp_path / "my images")
    result = run(data, tmp_path / "my run", *SMALL, "--epochs", "1")
    words = shlex.split(result.stdout.splitlines()[-1])
    assert [str(tmp_path / "my run"), "--data", str(data)] == words[-3:]


def test_the_architecture_can_be_changed(image_folder, tmp_path):
    options = ["--epochs", "1", "--model-option", "depth=2", "--model-option", "attention=mhsa", "--resolutions", "0.5:0.5,1:1"]
    assert run(image_folder, tmp_path, *options).exit_code == 0
    checkpoint = load_checkpoint(tmp_path / "ckpt.pt")
    assert (checkpoint.config["depth"], checkpoint.config["attention"]) == (2, "mhsa")
    assert checkpoint.recipe["resolutions"] == ((0.5, 0.5), (1.0, 1.0))
    assert "no field dept" in run(image_folder, tmp_path / "other", "--model-option", "dept=2").output
    assert "is not of the form" in run(image_folder, tmp_path / "other", "--resolutions", "1").output
