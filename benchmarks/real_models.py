"""DHVT-T, ResNet-18 and DeiT-T on real image sets, from scratch, each with the same computing time.

    python benchmarks/real_sets.py --out data plankton groceries
    python benchmarks/real_models.py rates plankton groceries --data data --out runs/real
    python benchmarks/real_models.py train plankton groceries --data data --out runs/real
    python benchmarks/real_models.py serving plankton groceries --data data --out runs/real

``rates`` measures how many images ``dhvt train`` takes of each model in a second of processor time, on an idle machine. 80
minutes of that, 40 of a machine's two cores, are its number of epochs, so that training may run beside other work. ``train``
tries three learning rates for a tenth of the epochs each, takes the one with the best validation top-1, trains with it,
exports, and measures on the test images, which choose nothing. ``serving`` measures the exported models in their engines, on an
idle machine. Each of the three omits what ``results/real_models.jsonl`` has and goes on where it was stopped (by Ctrl-C, or
SIGTERM to its process group).
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import Any

import psutil

from comparison import serving_rate
from real_sets import SETS, budget_epochs, fetch, has_budget
from runs import Measurements, export_and_test, learning_curve, train_once

MEASURED = Measurements("real_models")
VARIANTS = {"DHVT-T": "dhvt_tiny_cifar_patch4", "ResNet-18": "resnet18", "DeiT-T": "deit_tiny_patch16_224"}
RECIPE = "short"
LEARNING_RATES = (1e-3, 3e-3, 9e-3)
SEARCH_SHARE = 0.1
RATE_IMAGES = 5120
"""Images that a rate is measured on: some forty steps, of which each of the recipe's resolutions has its part."""

IDLE = 5.0
"""Per cent of the processors that others may use where a rate is measured: each second that they take makes the rate, and the
model's number of epochs, too small."""


@dataclass(frozen=True)
class Task:
    """A model on a set, and the files of its runs.

    Args:
        data: folder that ``real_sets.py`` wrote to.
        out: folder for the runs.
    """

    name: str
    model: str
    data: Path
    out: Path

    @property
    def key(self) -> dict[str, str]:
        return {"set": self.name, "model": self.model}

    @property
    def folder(self) -> Path:
        return self.out / self.name / self.model

    @property
    def options(self) -> list[str]:
        variant, real_set = VARIANTS[self.model], SETS[self.name]
        changes = [f"--model-option={option}" for option in real_set.model_options.get(variant, ())]
        return ["--variant", variant, "--img-size", str(real_set.img_size), "--name", self.name, *changes]

    @cached_property
    def lists(self) -> dict[str, Path]:
        return fetch(self.name, self.data)

    @cached_property
    def images(self) -> int:
        return len(self.lists["train"].read_text(encoding="utf-8").splitlines())

    @property
    def rate(self) -> float:
        """The images that ``dhvt train`` takes in a second of processor time.

        Raises:
            SystemExit: that is not measured.
        """
        rate = MEASURED.find(kind="rate", **self.key)
        if rate is None:
            raise SystemExit(f"how fast {self.model} trains on {self.name} is not measured; run `rates` first")
        return float(rate["images_per_processor_s"])

    def train(self, folder: Path, epochs: int, lr: float, seed: int, lists: dict[str, Path]) -> dict[str, Any]:
        """One training, or what is left of it."""
        data = ["--data", str(lists["train"]), "--val", str(lists["val"])]
        budget = argparse.Namespace(recipe=RECIPE, epochs=epochs, train_option=[f"--lr={lr}"])
        return train_once(folder, data, budget, seed, self.options)


def measure_rate(task: Task) -> None:
    """Records the images of a second of processor time: the second epoch's, so that what a start takes is not counted."""
    if MEASURED.find(kind="rate", **task.key):
        return
    if (busy := psutil.cpu_percent(interval=3)) > IDLE:
        raise SystemExit(f"other programs use {busy:.0f} % of the processors; measure rates when nothing else runs")
    lists = {split: _few(task.lists[split], count) for split, count in (("train", RATE_IMAGES), ("val", 128))}
    seconds = []
    for epochs in (1, 2):
        folder = task.folder / f"rate-{epochs}"
        shutil.rmtree(folder, ignore_errors=True)
        before = _processor_seconds()
        task.train(folder, epochs, LEARNING_RATES[0], 0, lists)
        seconds.append(_processor_seconds() - before)
    images = len(lists["train"].read_text(encoding="utf-8").splitlines())
    rate = images / (seconds[1] - seconds[0])
    MEASURED.record(
        {"kind": "rate", **task.key, "img_size": SETS[task.name].img_size, "images_per_processor_s": round(rate, 2)}
    )


def _processor_seconds() -> float:
    """Of all processes that this one started and that ended."""
    usage = getrusage(RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _few(path: Path, count: int) -> Path:
    """A list of an image of each class and of evenly spaced others, beside the whole list."""
    all_lines = path.read_text(encoding="utf-8").splitlines()
    first = {line.rpartition(" ")[2]: line for line in reversed(all_lines)}
    spaced = all_lines[:: max(len(all_lines) // count, 1)]
    few = path.with_name(f"{path.stem}_few.txt")
    few.write_text("\n".join(dict.fromkeys([*first.values(), *spaced])) + "\n", encoding="utf-8")
    return few


def search(task: Task, lr: float) -> None:
    """Records the validation accuracy after a tenth of the epochs at a learning rate."""
    if MEASURED.find(kind="search", lr=lr, **task.key):
        return
    epochs = budget_epochs(task.images, task.rate, SEARCH_SHARE)
    metrics = task.train(task.folder / f"search-{lr:g}", epochs, lr, 0, task.lists)
    top1, loss = round(metrics["val_top1"], 2), round(metrics["val_loss"], 4)
    MEASURED.record({"kind": "search", **task.key, "lr": lr, "epochs": epochs, "val_top1": top1, "val_loss": loss})


def best_learning_rate(task: Task) -> float:
    """The learning rate of the search with the best validation top-1."""
    return float(max(MEASURED.lines(kind="search", **task.key), key=lambda line: line["val_top1"])["lr"])


def train_and_test(task: Task, seed: int) -> None:
    """Records a whole training, and the exported model's figures on the test images."""
    found = MEASURED.find(kind="result", seed=seed, **task.key)
    if found is not None and has_budget(found["epochs"], task.images, task.rate):
        return
    epochs, lr = budget_epochs(task.images, task.rate), best_learning_rate(task)
    folder = task.folder / f"seed-{seed}"
    metrics = task.train(folder, epochs, lr, seed, task.lists)
    started = time.time()
    test = export_and_test(folder, ["--data", task.lists["train"], "--val", task.lists["val"]], task.lists["test"])
    line = {
        "kind": "result",
        **task.key,
        "seed": seed,
        "lr": lr,
        "epochs": epochs,
        "train_images": task.images,
        "parameters": metrics["parameters"],
        "train_minutes": round(metrics["train_seconds"] / 60, 1),
        "export_and_test_minutes": round((time.time() - started) / 60, 1),
        "val_top1": round(metrics["val_top1"], 2),
        "test": test,
        "curve": learning_curve(folder),
    }
    MEASURED.record(line)


def measure_serving(task: Task) -> None:
    """Records the images/s of an exported model of any seed, in batches of 32, in the engine that serves it here."""
    artifacts = sorted(task.folder.glob("seed-*/artifact"))
    if artifacts and not MEASURED.find(kind="serving", **task.key):
        MEASURED.record({"kind": "serving", **task.key, **serving_rate(artifacts[0])})


def tasks(args: argparse.Namespace) -> Iterator[Task]:
    """The models of each set, set after set, so that whole sets are done soonest."""
    for name in args.names:
        for model in args.models:
            yield Task(name, model, args.data, args.out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("rates", "train", "serving"))
    parser.add_argument("names", nargs="+", choices=SETS)
    parser.add_argument("--data", type=Path, required=True, help="folder that real_sets.py wrote to")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--models", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each model; the second has seed 1")
    args = parser.parse_args()
    for task in tasks(args):
        if args.step == "rates":
            measure_rate(task)
        elif args.step == "serving":
            measure_serving(task)
        else:
            for lr in LEARNING_RATES:
                search(task, lr)
            for seed in range(args.seeds):
                train_and_test(task, seed)


if __name__ == "__main__":
    main()
