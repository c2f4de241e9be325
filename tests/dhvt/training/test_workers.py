"""How many processes decode by default."""

import torch

from dhvt.data.preprocess import Preprocess
from dhvt.data.sources import open_dataset
from dhvt.training import workers
from dhvt.training.workers import choose_workers


def test_many_slow_images_are_decoded_by_processes_and_few_small_ones_are_not(image_folder, monkeypatch):
    source, preprocess = open_dataset(image_folder), Preprocess(size=(32, 32))
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(workers, "available_cpus", lambda: 12)
    monkeypatch.setattr(workers, "_SHARED_MEMORY", image_folder / "none")
    assert choose_workers(source, preprocess, gpu, 16) == 0
    monkeypatch.setattr(workers, "WORTH_IT_S", 0.0)
    assert (choose_workers(source, preprocess, gpu, 16), choose_workers(source, preprocess, cpu, 16)) == (11, 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert (choose_workers(source, preprocess, gpu, 16), choose_workers(source, preprocess, cpu, 16)) == (2, 0)
    monkeypatch.setattr(workers, "_SHARED_MEMORY", image_folder)
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2**20})())
    assert choose_workers(source, preprocess, gpu, 16) == 0
