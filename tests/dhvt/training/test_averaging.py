"""``dhvt average``: the mean of a run's checkpoints."""

import shlex
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from dhvt.cli.main import main
from dhvt.data.batches import iterate_batches
from dhvt.data.sources import Subset, open_dataset
from dhvt.errors import DataError
from dhvt.evaluation.metrics import calibrate
from dhvt.model.checkpoint import load_checkpoint
from dhvt.model.inference import Normalize
from dhvt.training import averaging
from dhvt.training.averaging import measure, recompute_batchnorm
from tests.dhvt.training.commands import SMALL, run


def average(data, out, *arguments):
    return CliRunner().invoke(main, ["average", *map(str, arguments), "--data", str(data), "--out", str(out)])


@pytest.fixture(scope="module")
def ends(image_folder, tmp_path_factory):
    """The checkpoints of a run's two cycles."""
    folder = tmp_path_factory.mktemp("run")
    assert run(image_folder, folder, *SMALL, "--epochs", "1").exit_code == 0
    shutil.copy(folder / "ckpt.pt", folder / "first.pt")
    assert run(image_folder, folder, *SMALL, "--epochs", "2", "--resume", "--change-recipe").exit_code == 0
    return folder / "first.pt", folder / "ckpt.pt"


def test_the_average_is_the_mean_measured_on_what_was_held_out(image_folder, ends, tmp_path):
    result = average(image_folder, tmp_path / "the mean.pt", *ends)
    assert result.exit_code == 0, result.output
    mean, (first, last) = load_checkpoint(tmp_path / "the mean.pt"), map(load_checkpoint, ends)
    for name, weight in mean.build_model().state_dict().items():
        if weight.is_floating_point() and "running" not in name:
            assert torch.allclose(weight, (first.ema[name] + last.ema[name]) / 2, atol=1e-6), name
    assert (mean.metrics["val_images"], mean.temperature > 0) == (6, True)
    assert mean.metrics["val_chose_weights"], "of BatchNorm's two statistics"
    assert f": top-1 {mean.metrics['val_top1']:.2f} %" in result.output
    assert [entry["from_step"] for entry in mean.provenance["commands"]] == [0, 3, 6]
    assert shlex.split(result.stdout.splitlines()[-1])[-3:] == [str(tmp_path / "the mean.pt"), "--data", str(image_folder)]
    assert "exists" in average(image_folder, tmp_path / "the mean.pt", *ends).output


@pytest.mark.parametrize("better", ["averaged", "recomputed"])
def test_the_better_batchnorm_statistics_are_kept(image_folder, ends, tmp_path, monkeypatch, better):
    """Statistics are spoilt before they are recomputed, or after it."""
    spoil = "average_checkpoints" if better == "recomputed" else "recompute_batchnorm"
    original = getattr(averaging, spoil)

    def spoilt(*arguments):
        checkpoint = original(*arguments)
        weights = {name: 100 * value if "running_var" in name else value for name, value in checkpoint.weights.items()}
        return replace(checkpoint, weights=weights)

    monkeypatch.setattr(averaging, spoil, spoilt)
    result = average(image_folder, tmp_path / "mean.pt", *ends)
    assert result.exit_code == 0, result.output
    kept = [line for line in result.output.splitlines() if line.startswith("kept: ")]
    assert ["recomputed" in line for line in kept] == [better == "recomputed"]
    variances = [value for name, value in load_checkpoint(tmp_path / "mean.pt").weights.items() if "running_var" in name]
    first = [value for name, value in load_checkpoint(ends[0]).ema.items() if "running_var" in name]
    assert variances
    assert all((after < 50 * before.clamp(min=0.02)).all() for after, before in zip(variances, first, strict=True))


@pytest.mark.parametrize(("resolutions", "tolerance"), [("1:1", 0.7), ("0.9:0.5,1:1", 0.1)])
def test_averaged_weights_have_the_statistics_of_full_images_from_the_first_epoch_on(
    image_folder, tmp_path, resolutions, tolerance
):
    """With weights that do not move. At full size they are those of three augmented batches, else of training images."""
    still = ["--epochs", "1", "--lr", "1e-12", "--min-lr", "0", "--warmup-lr", "0", "--resolutions", resolutions]
    assert run(image_folder, tmp_path, *SMALL, *still).exit_code == 0
    saved = load_checkpoint(tmp_path / "ckpt.pt")
    recomputed = recompute_batchnorm(saved, open_dataset(image_folder), print).weights
    variances = {name: value for name, value in recomputed.items() if "running_var" in name}
    assert any((value < 0.1).any() for value in variances.values())
    for name, value in variances.items():
        assert ((saved.ema[name] + 1e-6) / (value + 1e-6)).log().abs().median() < tolerance, name


@pytest.mark.parametrize(("resolutions", "batches"), [("0.99:0.5,1:1", 1), ("0.5:0.5,1:1", 3)])
def test_statistics_of_full_images_are_of_one_batch_until_steps_see_them(
    image_folder, tmp_path, monkeypatch, resolutions, batches
):
    """54 training images, of which the last six are no whole batch."""
    monkeypatch.setattr("dhvt.training.full_size_statistics._BATCH_SIZE", 16)
    assert run(image_folder, tmp_path, *SMALL, "--epochs", "1", "--resolutions", resolutions).exit_code == 0
    ema = load_checkpoint(tmp_path / "ckpt.pt").ema
    assert {int(value) for name, value in ema.items() if name.endswith("num_batches_tracked")} == {batches}


@pytest.mark.parametrize("batch_size", [64, 16])
def test_recomputed_batchnorm_statistics_are_those_of_training(image_folder, ends, monkeypatch, batch_size):
    """Of all tokens of the last block, and of full batches: of 40 images 32, where a batch has 16."""
    monkeypatch.setattr(averaging, "_BATCH_SIZE", batch_size)
    checkpoint, whole = load_checkpoint(ends[0]), open_dataset(image_folder)
    source = Subset(whole, np.arange(0, 60, 3)[:20].repeat(2))
    got = recompute_batchnorm(checkpoint, source, print).weights
    model, preprocess = checkpoint.build_model().train(), checkpoint.build_preprocess()
    for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.reset_running_stats()
        norm.momentum = None
    drawn = Subset(source, np.random.default_rng(0).permutation(40)[: 40 // batch_size * batch_size or 40])
    with torch.no_grad():
        for batch in iterate_batches(drawn, preprocess, batch_size):
            model(Normalize(preprocess)(torch.from_numpy(batch.images)))
    statistics = {name: value for name, value in model.state_dict().items() if "running" in name}
    assert any("bn3" in name for name in statistics)
    for name, value in statistics.items():
        torch.testing.assert_close(got[name], value, msg=name)


def test_a_held_out_image_that_cannot_be_read_stops_or_is_omitted(image_folder, ends, tmp_path):
    data = shutil.copytree(image_folder, tmp_path / "data")
    for image in (data / "circle").iterdir():
        image.write_bytes(b"no image")
    source, checkpoint = open_dataset(data), load_checkpoint(ends[0])
    with pytest.raises(DataError, match="not an image"):
        measure(checkpoint, source, lambda count: None)
    messages = []
    assert measure(checkpoint, source, lambda count: None, messages.append)[0].images == 40
    assert len(messages) == 20
    assert "validated on" in average(data, tmp_path / "mean.pt", *ends).output  # they are no longer the same images


def test_validation_images_of_their_own_and_a_broken_training_image(image_folder, tmp_path):
    data, val = (shutil.copytree(image_folder, tmp_path / name) for name in ("data", "val"))
    for path in [*data.glob("*/0*.png"), *val.glob("*/1*.png")]:
        path.unlink()
    assert run(data, tmp_path / "run", *SMALL, "--val", str(val), "--epochs", "1").exit_code == 0
    ends = [tmp_path / "run" / name for name in ("ckpt.pt", "best.pt")]
    assert "give its --data, and its --val" in average(data, tmp_path / "mean.pt", *ends).output
    result = average(data, tmp_path / "mean.pt", *ends, "--val", val)
    assert result.exit_code == 0, result.output
    assert load_checkpoint(tmp_path / "mean.pt").metrics["val_images"] == 30
    assert result.stdout.splitlines()[-1].endswith(f"--val {val}")
    (data / "circle" / "12.png").write_bytes(b"no image")
    refused = average(data, tmp_path / "other.pt", *ends, "--val", val)
    assert (refused.exit_code, "12.png: not an image" in refused.output) == (1, True)
    assert average(data, tmp_path / "other.pt", *ends, "--val", val, "--on-broken", "skip").exit_code == 0


def test_groups_of_the_training_are_whole_in_the_folds_of_its_temperature(image_folder, tmp_path, monkeypatch):
    given = []

    def spy(outputs, groups=None):
        given.append(groups)
        return calibrate(outputs, groups)

    for module in ("validation", "averaging"):
        monkeypatch.setattr(f"dhvt.training.{module}.calibrate", spy)
    options = ["--epochs", "1", "--val-fraction", "0.2", "--group-by", r"(\d)\.png"]
    assert run(image_folder, tmp_path, *SMALL, *options).exit_code == 0
    result = average(image_folder, tmp_path / "mean.pt", tmp_path / "ckpt.pt", tmp_path / "best.pt")
    assert result.exit_code == 0, result.output
    assert len(given) > 2
    assert all(groups == given[0] for groups in given)
    assert (len(given[0]), len(set(given[0]))) == (12, 2)


def test_an_average_is_not_resumed(image_folder, ends, tmp_path):
    assert average(image_folder, tmp_path / "ckpt.pt", *ends).exit_code == 0
    result = run(image_folder, tmp_path, *SMALL, "--epochs", "3", "--resume", "--change-recipe")
    assert result.exit_code == 1
    assert "cannot resume" in result.output


def test_what_cannot_be_averaged_says_why(image_folder, ends, tmp_path):
    assert "two checkpoints or more" in average(image_folder, tmp_path / "mean.pt", ends[0]).output
    assert run(image_folder, tmp_path, "--model-option", "depth=1", "--epochs", "1").exit_code == 0
    assert "differ in config" in average(image_folder, tmp_path / "mean.pt", ends[0], tmp_path / "ckpt.pt").output
    other = shutil.copytree(image_folder, tmp_path / "other")
    (other / "circle" / "00.png").unlink()
    assert "validated on" in average(other, tmp_path / "mean.pt", *ends).output
    assert not (tmp_path / "mean.pt").exists()


def test_images_are_the_same_wherever_they_lie(image_folder, ends, tmp_path):
    moved = load_checkpoint(ends[0])
    for record in moved.data.values():
        record["source"] = "/elsewhere"
    assert averaging.average_checkpoints([moved, load_checkpoint(ends[1])]).step == 6
    result = average(image_folder, tmp_path / "absent" / "mean.pt", *ends)
    assert (result.exit_code, f"there is no folder {tmp_path / 'absent'}" in result.output, result.stdout) == (1, True, "")
