"""``--cache``: decoded images stay in memory."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dhvt.data.preprocess import Preprocess
from dhvt.data.sources import open_dataset
from dhvt.model.checkpoint import load_checkpoint
from dhvt.training.config import Recipe
from dhvt.training.storage import images_fit, store_images
from tests.dhvt.training.commands import run, start


def test_a_cache_that_memory_cannot_hold_is_one_line(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("dhvt.training.storage.available_memory", lambda: 100_000)
    options = ["--epochs", "1", "--model-option", "depth=1", "--model-option", "embed_dim=32"]
    result = run(image_folder, tmp_path / "cached", *options, "--cache")
    assert result.exit_code == 1
    assert "--cache needs 165,888 bytes of memory and 100,000 are free" in result.output
    assert run(image_folder, tmp_path / "own", *options).exit_code == 0
    cropped = run(image_folder, tmp_path / "cropped", *options, "--cache", "--crop", "resized")
    assert 'it needs a recipe with crop = "pad"' in cropped.output


def test_images_decoded_by_processes_train_the_same_weights_as_kept_ones(image_folder, unbroken, tmp_path):
    options = ["--epochs", "2", "--drop-path-rate", "0.2", "--cutmix", "1", "--mix-prob", "0.5"]
    # In a process of its own: PyTorch's loader leaves a SIGCHLD handler behind, which Python runs on the stack that
    # pytest's faulthandler set up; the kernel then ended a later test with SIGSEGV.
    assert start(image_folder, tmp_path, *options, "--no-cache", "--num-workers", "2").wait(timeout=120) == 0
    weights = load_checkpoint(tmp_path / "ckpt.pt").weights
    assert all(torch.equal(weights[name], expected) for name, expected in unbroken[1].weights.items())


@pytest.mark.parametrize(
    ("device", "free", "fits"),
    [("cuda", 10**5, True), ("cpu", 60 * 10**6, True), ("cpu", 20 * 10**6, False)],
)
def test_the_memory_that_counts_is_each_devices_own_or_what_a_machines_processes_share(monkeypatch, device, free, fits):
    """Two of four processes are on this machine; the images take 3 MB."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (10**9, 10**9))
    monkeypatch.setattr("dhvt.training.storage.available_memory", lambda: free)
    assert images_fit(pretended_run(device, processes=4)) is fits


def test_images_for_another_device_are_not_gathered_in_main_memory(image_folder, monkeypatch):
    """The device here keeps no data, and no larger tensor than an image is made elsewhere."""
    made = []
    original = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, **options: made.append(options["device"]) or original(*size, **options))
    stored = store_images(pretended_run("meta"), open_dataset(image_folder))
    assert (stored.pixels.device.type, stored.pixels.shape) == ("meta", (60, 32, 32, 3))
    assert made == [torch.device("meta")]


def pretended_run(device, processes=1):
    return SimpleNamespace(
        options=SimpleNamespace(cache=None, num_workers=0),
        recipe=Recipe(),
        preprocess=Preprocess(size=(32, 32)),
        images=SimpleNamespace(train=np.empty(1000)),
        accelerator=SimpleNamespace(device=torch.device(device), num_processes=processes, is_main_process=True),
    )
