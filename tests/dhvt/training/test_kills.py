"""kill -9 at random moments of a run with all of the augmentation."""

import random
import time

import pytest
import torch

from dhvt.model.checkpoint import load_checkpoint
from tests.dhvt.training.commands import run, start

KILLS = 10
OPTIONS = ["--recipe", "cifar100", "--epochs", "120", "--val-every", "120", "--batch-size", "8", "--color-jitter", "0.2"]
OPTIONS += ["--model-option", "depth=1", "--model-option", "embed_dim=32", "--checkpoint-minutes", "0", "--device", "cpu"]


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_no_bit(image_folder, tmp_path):
    assert run(image_folder, tmp_path / "unbroken", *OPTIONS).exit_code == 0
    out, rng, steps = tmp_path / "killed", random.Random(0), []
    while len(steps) < KILLS:
        process = start(image_folder, out, *OPTIONS, *(["--resume"] if (out / "ckpt.pt").exists() else []))
        before = (out / "ckpt.pt").stat().st_mtime_ns if (out / "ckpt.pt").exists() else 0
        while process.poll() is None and (not (out / "ckpt.pt").exists() or (out / "ckpt.pt").stat().st_mtime_ns == before):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))  # a random moment of its training
        process.kill()
        assert process.wait(timeout=60) < 0, "it ended before it was killed"
        steps.append(load_checkpoint(out / "ckpt.pt").step)
    assert steps == sorted(steps)
    assert run(image_folder, out, *OPTIONS, "--resume").exit_code == 0
    unbroken, killed = (load_checkpoint(tmp_path / name / "ckpt.pt") for name in ("unbroken", "killed"))
    for kind in ("weights", "ema"):
        expected, got = getattr(unbroken, kind), getattr(killed, kind)
        assert all(torch.equal(expected[name], got[name]) for name in expected), kind
