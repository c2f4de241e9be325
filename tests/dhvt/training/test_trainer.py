"""Through the command line, as a user trains."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from ctypes.util import find_library
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from dhvt.cli.main import main
from dhvt.errors import CheckpointError
from dhvt.model.checkpoint import load_checkpoint, save_checkpoint
from dhvt.training.allocator import ALLOCATORS
from dhvt.training.config import Recipe, preset_names
from tests.conftest import CLASSES, draw


def arguments(data, out, *options):
    size = [] if "--img-size" in options else ["--img-size", "32"]  # of images of 36 pixels, auto would take 48
    return ["train", "--data", str(data), "--out", str(out), "--device", "cpu", "--batch-size", "16", *size, *options]


def run(data, out, *options):
    return CliRunner().invoke(main, arguments(data, out, *options))


def start(data, out, *options):
    """In a process of its own, to be killed."""
    return subprocess.Popen([sys.executable, "-m", "dhvt.cli", *arguments(data, out, *options)], stderr=subprocess.DEVNULL)


def wait_until(condition):
    """Whether it came true within two minutes."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def interrupt_in_mid_epoch(process, path, how):
    """Waits for a checkpoint that is neither a beginning nor an end of an epoch of three steps."""
    assert wait_until(lambda: path.exists() and load_checkpoint(path).step % 3 == 1), "no checkpoint appeared"
    process.send_signal(how)
    return process.wait(timeout=60)


@pytest.fixture(scope="module")
def unbroken(image_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken")
    result = run(image_folder, out, "--epochs", "2", "--drop-path-rate", "0.2", "--cutmix", "1", "--mix-prob", "0.5")
    assert result.exit_code == 0, result.output
    return result, load_checkpoint(out / "ckpt.pt"), out


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


def test_killed_in_mid_epoch_and_resumed_is_as_if_never_stopped(image_folder, unbroken, tmp_path):
    options = ["--epochs", "2", "--drop-path-rate", "0.2", "--cutmix", "1", "--mix-prob", "0.5", "--checkpoint-minutes", "0"]
    process = start(image_folder, tmp_path, *options)
    assert interrupt_in_mid_epoch(process, tmp_path / "ckpt.pt", signal.SIGKILL) == -signal.SIGKILL
    assert load_checkpoint(tmp_path / "ckpt.pt").step < 6
    assert run(image_folder, tmp_path, *options, "--resume").exit_code == 0
    resumed = load_checkpoint(tmp_path / "ckpt.pt")
    for kind in ("weights", "ema"):
        expected, got = getattr(unbroken[1], kind), getattr(resumed, kind)
        assert all(torch.equal(expected[name], got[name]) for name in expected), kind


def test_ctrl_c_leaves_a_usable_checkpoint(image_folder, tmp_path):
    process = start(image_folder, tmp_path, "--epochs", "50", "--checkpoint-minutes", "0")
    assert interrupt_in_mid_epoch(process, tmp_path / "ckpt.pt", signal.SIGINT) == 130
    assert load_checkpoint(tmp_path / "ckpt.pt").build_model().num_classes == 3


def test_a_signal_to_the_whole_group_leaves_a_checkpoint_too(image_folder, tmp_path):
    """As service managers and launchers send it: also to the processes that decode, which the last step still needs."""
    options = ["--epochs", "500", "--val-every", "500", "--num-workers", "2", "--model-option", "depth=1"]
    command = [sys.executable, "-m", "dhvt.cli", *arguments(image_folder, tmp_path, *options)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, text=True)
    assert wait_until((tmp_path / "ckpt.pt").exists), "no checkpoint appeared"
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert load_checkpoint(tmp_path / "ckpt.pt").step >= 3


def test_a_second_run_does_not_overwrite_the_first(image_folder, unbroken):
    result = run(image_folder, unbroken[2], "--epochs", "2")
    assert result.exit_code == 1
    assert "--resume" in result.output


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
    options = ["--val-every", "9", "--change-recipe", "--resume"]
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
    assert wait_until(lambda: path.exists() and load_checkpoint(path).step == 3), "no checkpoint appeared"
    process.kill()
    process.wait(timeout=60)
    epochs = load_checkpoint(path).step // 3
    result = run(image_folder, tmp_path, "--epochs", str(epochs), "--val-every", "50", "--resume", "--change-recipe")
    assert result.exit_code == 0, result.output
    saved = load_checkpoint(path)
    assert (saved.recipe["epochs"], saved.temperature) == (epochs, saved.metrics["temperature"])
    assert f"validation top-1 {saved.metrics['val_top1']:.2f} %" in result.output


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


def test_validation_can_be_rarer_than_epochs_but_never_misses_the_last(image_folder, tmp_path):
    assert run(image_folder, tmp_path, "--epochs", "3", "--val-every", "2").exit_code == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [2, 3]
    assert load_checkpoint(tmp_path / "ckpt.pt").metrics["epoch"] == 3


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(image_folder, tmp_path):
    result = run(image_folder, tmp_path, "--lr", "1e30", "--optimizer", "adamw", "--warmup-epochs", "0", "--epochs", "2")
    assert result.exit_code == 1
    assert "the loss became" in result.output
    assert isinstance(result.exception, SystemExit)


def test_weights_that_are_not_finite_do_not_replace_the_checkpoint(image_folder, tmp_path, monkeypatch):
    """With one step an epoch, the loss of the step that spoils the weights is still finite when they are to be saved."""
    options = ["--batch-size", "64", "--model-option", "depth=1"]
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
    small = ["--model-option", "depth=1", "--model-option", "embed_dim=32", "--epochs", "1", "--batch-size", "54"]
    result = run(image_folder, tmp_path, "--recipe", name, *small, "--clip-grad", "1")
    assert result.exit_code == 0, result.output
    checkpoint = load_checkpoint(tmp_path / "ckpt.pt")
    assert (checkpoint.step, checkpoint.metrics["val_images"]) == (1, 6)
    assert checkpoint.recipe == Recipe.preset(name, epochs=1, batch_size=54, clip_grad=1.0).to_dict()


def test_a_last_odd_image_prevents_neither_mixing_nor_the_right_learning_rate(image_folder, tmp_path):
    """53 images to train on, in one batch of 52."""
    data = shutil.copytree(image_folder, tmp_path / "data")
    (data / "circle" / "00.png").unlink()
    tiny = ["--epochs", "1", "--model-option", "depth=1", "--repeats", "1", "--warmup-epochs", "0", "--batch-size", "512"]
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
    result = run(data, tmp_path / "out", "--epochs", "1", "--on-broken", policy)
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


def test_a_full_disk_keeps_the_checkpoint_before(checkpoint, tmp_path, monkeypatch):
    path = tmp_path / "ckpt.pt"
    save_checkpoint(checkpoint, path)
    before = path.read_bytes()

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(CheckpointError, match="No space left"):
        save_checkpoint(checkpoint, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_checkpoint_says_so(tmp_path):
    path = tmp_path / "ckpt.pt"
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_checkpoint(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(path)
    torch.save({"model": {}}, path)
    with pytest.raises(CheckpointError, match="no checkpoint of dhvt train"):
        load_checkpoint(path)


def train_in_two_processes(data, out, *options):
    """``@RANK`` in ``data`` and ``out`` is a process's number."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    program = shlex.join([sys.executable, "-m", "dhvt.cli", *arguments(data, out, *options)]).replace("@RANK", "$RANK")
    command = [*torchrun, "sh", "-c", f"exec {program}"]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=240, env=environment)


def test_two_processes_learn_what_one_does_with_the_same_batch(image_folder, tmp_path):
    """One of them has no validation image; and both look at the images, of which one is broken, together."""
    image_folder = shutil.copytree(image_folder, tmp_path / "data")
    (image_folder / "circle" / "03.png").write_bytes(b"no image")
    (tmp_path / "val" / "circle").mkdir(parents=True)
    draw(0, 100).save(tmp_path / "val" / "circle" / "00.png")
    options = ["--epochs", "2", "--optimizer", "adamw", "--drop-path-rate", "0", "--lr", "1e-3", "--repeats", "2"]
    options += ["--mixup", "0.8", "--mix-prob", "1", "--amp", "off"]
    options += ["--val", str(tmp_path / "val"), "--on-broken", "skip"]
    assert run(image_folder, tmp_path / "one", *options).exit_code == 0
    result = train_in_two_processes(image_folder, tmp_path / "two", *options)
    assert result.returncode == 0, result.stderr
    one, two = (load_checkpoint(tmp_path / name / "ckpt.pt") for name in ("one", "two"))
    assert two.provenance["processes"] == 2
    assert (one.step, one.metrics["val_images"]) == (two.step, two.metrics["val_images"])
    assert (one.data, one.metrics["broken_images"]) == (two.data, two.metrics["broken_images"])
    assert (one.metrics["broken_images"], result.stdout.count("03.png: not an image")) == (1, 1)
    for name, weight in one.weights.items():
        if name.endswith(("weight", "running_var")):
            # Not biases: BatchNorm and softmax leave some without a gradient, and AdamW steps along the rounding error.
            torch.testing.assert_close(two.weights[name], weight, rtol=1e-3, atol=2e-4, msg=name)
    assert result.stdout.count("images to train on") == 1
    assert len((tmp_path / "two" / "metrics.jsonl").read_text().splitlines()) == 2


def test_processes_without_a_common_disk_resume_from_the_first_ones(image_folder, tmp_path):
    options = ["--model-option", "depth=1", "--model-option", "embed_dim=32", "--random-erasing", "0"]
    assert train_in_two_processes(image_folder, tmp_path / "@RANK", *options, "--epochs", "1").returncode == 0
    assert [path.name for path in tmp_path.glob("*/ckpt.pt")] == ["ckpt.pt"]
    first = load_checkpoint(tmp_path / "0" / "ckpt.pt")
    frozen = ["--resume", "--change-recipe", "--epochs", "2", "--lr", "1e-12", "--min-lr", "0", "--warmup-epochs", "0"]
    assert train_in_two_processes(image_folder, tmp_path / "@RANK", *options, *frozen).returncode == 0
    last = load_checkpoint(tmp_path / "0" / "ckpt.pt")
    assert (first.step, last.step) == (3, 6)
    torch.testing.assert_close(last.weights["head.weight"], first.weights["head.weight"])


def test_processes_with_other_images_do_not_train_together(image_folder, tmp_path):
    for rank, dropped in enumerate(("circle", "square")):
        shutil.copytree(image_folder, tmp_path / f"data{rank}", ignore=shutil.ignore_patterns(dropped))
    result = train_in_two_processes(tmp_path / "data@RANK", tmp_path / "out", "--epochs", "1", "--model-option", "depth=1")
    assert result.returncode != 0
    assert "the processes found different images or classes" in result.stderr
    assert not (tmp_path / "out" / "ckpt.pt").exists()


def test_a_cache_that_memory_cannot_hold_is_one_line(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("dhvt.training.storage.available_memory", lambda: 100_000)
    options = ["--epochs", "1", "--model-option", "depth=1", "--model-option", "embed_dim=32"]
    result = run(image_folder, tmp_path / "cached", *options, "--cache")
    assert result.exit_code == 1
    assert "--cache needs 165,888 bytes of memory and 100,000 are free" in result.output
    assert run(image_folder, tmp_path / "own", *options).exit_code == 0
    cropped = run(image_folder, tmp_path / "cropped", *options, "--cache", "--crop", "resized")
    assert 'it needs a recipe with crop = "pad"' in cropped.output


def test_two_processes_train_in_bfloat16(image_folder, tmp_path):
    """BatchNorm's running statistics, sums over many images that no update rounds twice, show whether both did the same."""
    options = ["--epochs", "1", "--lr", "1e-6", "--random-erasing", "0", "--amp", "bf16"]
    options += ["--model-option", "depth=2", "--model-option", "embed_dim=32"]
    assert run(image_folder, tmp_path / "one", *options).exit_code == 0
    result = train_in_two_processes(image_folder, tmp_path / "two", *options)
    assert result.returncode == 0, result.stderr
    one, two = (load_checkpoint(tmp_path / name / "ckpt.pt") for name in ("one", "two"))
    assert two.provenance["precision"] == "bf16"
    for name, weight in one.weights.items():
        if name.endswith("running_var"):
            torch.testing.assert_close(two.weights[name], weight, rtol=2e-2, atol=1e-3, msg=name)


def test_accumulated_micro_batches_are_one_step(image_folder, tmp_path):
    """A model without BatchNorm, whose statistics are those of each micro-batch."""
    options = ["--epochs", "1", "--optimizer", "adamw", "--drop-path-rate", "0", "--amp", "off"]
    options += ["--variant", "vit_tiny_patch16_224"]
    for count in ("1", "4"):
        assert run(image_folder, tmp_path / count, *options, "--accumulate", count).exit_code == 0
    whole, cut = (load_checkpoint(tmp_path / count / "ckpt.pt") for count in ("1", "4"))
    assert whole.step == cut.step
    for name, weight in whole.weights.items():
        torch.testing.assert_close(cut.weights[name], weight, rtol=1e-3, atol=1e-3, msg=name)


def test_images_decoded_by_processes_train_the_same_weights_as_kept_ones(image_folder, unbroken, tmp_path):
    options = ["--epochs", "2", "--drop-path-rate", "0.2", "--cutmix", "1", "--mix-prob", "0.5"]
    # In a process of its own: PyTorch's loader leaves a SIGCHLD handler behind, which Python runs on the stack that
    # pytest's faulthandler set up; the kernel then ended a later test with SIGSEGV.
    assert start(image_folder, tmp_path, *options, "--no-cache", "--num-workers", "2").wait(timeout=120) == 0
    weights = load_checkpoint(tmp_path / "ckpt.pt").weights
    assert all(torch.equal(weights[name], expected) for name, expected in unbroken[1].weights.items())


def test_metrics_go_to_tensorboard(image_folder, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert run(image_folder, tmp_path, "--epochs", "1", "--tracker", "tensorboard").exit_code == 0
    events = EventAccumulator(str(tmp_path / "tracker")).Reload()
    assert events.Scalars("val_top1")[0].value == pytest.approx(load_checkpoint(tmp_path / "ckpt.pt").metrics["val_top1"])


@pytest.mark.parametrize(
    ("tracker", "message"),
    [("tensorboard", "pip install -e '.[tracker]'"), ("wandb", "pip install wandb"), ("tensorbored", "choose one of")],
)
def test_a_tracker_that_is_not_installed_or_unknown_is_refused_before_training(
    image_folder, tmp_path, monkeypatch, tracker, message
):
    monkeypatch.setattr("dhvt.training.tracking.get_available_trackers", lambda: [])
    result = run(image_folder, tmp_path, "--epochs", "1", "--tracker", tracker)
    assert result.exit_code == 1
    assert message in result.output
    assert not (tmp_path / "ckpt.pt").exists()


@pytest.mark.skipif(not any(map(find_library, ALLOCATORS)), reason="neither jemalloc nor tcmalloc is installed")
def test_training_restarts_itself_with_a_faster_allocator(image_folder, tmp_path):
    script = shutil.which("dhvt", path=str(Path(sys.executable).parent))
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    command = [script, *arguments(image_folder, tmp_path, "--epochs", "50")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        found = wait_until(lambda: any(name in maps.read_text() for name in ALLOCATORS))
        process.kill()
    assert found


@pytest.mark.skipif(sys.platform != "linux" or not find_library("jemalloc"), reason="needs jemalloc on Linux")
def test_a_jemalloc_that_is_there_is_told_to_keep_memory(image_folder, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_CONF"}
    environment["LD_PRELOAD"] = find_library("jemalloc")
    script = shutil.which("dhvt", path=str(Path(sys.executable).parent))
    command = [script, *arguments(image_folder, tmp_path, "--epochs", "50")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        told = wait_until(lambda: b"MALLOC_CONF=" in Path(f"/proc/{process.pid}/environ").read_bytes())
        process.kill()
    assert told


def test_the_next_command_quotes_paths(image_folder, tmp_path):
    data = shutil.copytree(image_folder, tmp_path / "my images")
    result = run(data, tmp_path / "my run", "--epochs", "1", "--model-option", "depth=1")
    words = shlex.split(result.stdout.splitlines()[-1])
    assert [str(tmp_path / "my run" / "ckpt.pt"), "--data", str(data)] == words[-3:]


def test_the_architecture_can_be_changed(image_folder, tmp_path):
    options = ["--epochs", "1", "--model-option", "depth=2", "--model-option", "attention=mhsa", "--resolutions", "0.5:0.5,1:1"]
    assert run(image_folder, tmp_path, *options).exit_code == 0
    checkpoint = load_checkpoint(tmp_path / "ckpt.pt")
    assert (checkpoint.config["depth"], checkpoint.config["attention"]) == (2, "mhsa")
    assert checkpoint.recipe["resolutions"] == ((0.5, 0.5), (1.0, 1.0))
    assert "no field dept" in run(image_folder, tmp_path / "other", "--model-option", "dept=2").output
    assert "is not of the form" in run(image_folder, tmp_path / "other", "--resolutions", "1").output
