"""Training in two processes, as ``torchrun`` starts them."""

import os
import shlex
import shutil
import subprocess
import sys

import torch

from dhvt.model.checkpoint import load_checkpoint
from tests.conftest import draw
from tests.dhvt.training.commands import arguments, run


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
