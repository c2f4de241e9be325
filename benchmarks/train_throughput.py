"""Training images/s of DHVT against the straightforward implementation: the same weights, batch and steps.

    python benchmarks/train_throughput.py

Straightforward: PyTorch in fp32 as one writes it down, with fused attention, feature maps as (B, D, gh, gw) in memory,
and the C library's allocator. Ours: what ``dhvt train`` does here. They take turns, each in a process of its own;
the figures are medians of the rounds. ``ratio`` compares them on images of the full size. A recipe's first steps may see
smaller ones: ``ratio_over_recipe`` compares a whole training by the preset ``--recipe`` with one on full size throughout.
``split_ms`` is where the time of one of our steps goes: ``data`` augments a batch that is in memory as the recipe has it, and
``rest`` is the loss and what lies between the others. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from resource import RUSAGE_SELF, getrusage
from statistics import median
from typing import Any

import numpy as np

CONTENDERS = ("straightforward", "ours")
NUM_CLASSES = 10


def compute_straightforwardly() -> None:
    """Has the modules of a DHVT compute the way a first implementation would; their parameters stay."""
    import torch
    from torch.nn import functional

    from dhvt.model.layers import DAFF, MHSA

    def attend(self, x):
        B, N, D = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        x = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(B, N, D))

    def daff(self, x, grid):
        B, N, D = x.shape
        cls_token, patches = torch.split(x, [1, N - 1], dim=1)
        patches = patches.transpose(1, 2).reshape(B, D, *grid).contiguous()
        patches = functional.gelu(self.bn1(self.conv1(patches)))
        patches = patches + functional.gelu(self.bn2(self.conv2(patches)))
        patches = self.bn3(self.conv3(patches)).flatten(2).transpose(1, 2)
        weight = self.excitation(functional.gelu(self.compress(patches.mean(dim=1, keepdim=True))))
        return torch.cat((cls_token * weight, patches), dim=1)

    MHSA.attend, DAFF.forward = attend, daff


def measure(
    contender: str, name: str, batch_size: int, steps: int, img_size: int | None = None, recipe: str = "short"
) -> dict[str, Any]:
    """Runs in a process of its own: images/s of the median step, where its time goes, and the last loss to compare.

    Args:
        name: a DHVT variant or, for ours, any classifier of timm.
        img_size: pixels of an image's side; by default the model's.
        recipe: the preset that augments.
    """
    import torch
    from torch.nn import functional

    from dhvt.model.factory import build, configure
    from dhvt.training.distributed import open_accelerator

    torch.manual_seed(0)
    ours = contender == "ours"
    if not ours:
        compute_straightforwardly()
    config = configure(name, num_classes=NUM_CLASSES, img_size=img_size)
    model = build(name, config).train()
    accelerator = open_accelerator("auto", "auto" if ours else "off")
    model = accelerator.prepare_model(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=ours)
    device = accelerator.device
    images = torch.randn(batch_size, 3, *config["img_size"], device=device)
    labels = torch.randint(0, NUM_CLASSES, (batch_size,), device=device)
    seconds, clock = [], Clock(device)
    for _ in range(steps):
        start = clock.start()
        logits = model(images)
        clock.lap("forward")
        loss = functional.cross_entropy(logits, labels)
        clock.lap("rest")
        loss.backward()
        clock.lap("backward")
        optimizer.step()
        clock.lap("optimizer")
        optimizer.zero_grad()
        value = loss.item()  # waits for the device
        clock.lap("rest")
        seconds.append(time.perf_counter() - start)
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else 1024 * getrusage(RUSAGE_SELF).ru_maxrss
    split = clock.medians()
    if ours:
        split["data"] = measure_data(recipe, config["img_size"], batch_size, steps, device)
    return {
        "images_per_s": batch_size / median(seconds[2:]),
        "loss": value,
        "split_ms": {phase: round(1e3 * value, 2) for phase, value in split.items()},
        "peak_memory_mib": round(memory / 2**20),
    }


class Clock:
    """The time of each phase of each step, of which the first two are not counted."""

    def __init__(self, device: Any) -> None:
        self._device, self._steps = device, []

    def start(self) -> float:
        """Begins a step."""
        self._steps.append({})
        self._last = self._now()
        return self._last

    def lap(self, phase: str) -> None:
        """Ends a phase."""
        now = self._now()
        self._steps[-1][phase] = self._steps[-1].get(phase, 0.0) + now - self._last
        self._last = now

    def medians(self) -> dict[str, float]:
        """Seconds by phase."""
        return {phase: median(step[phase] for step in self._steps[2:]) for phase in self._steps[0]}

    def _now(self) -> float:
        import torch

        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def measure_data(recipe_name: str, size: tuple[int, int], batch_size: int, steps: int, device: Any) -> float:
    """Seconds in which a batch of random images is augmented as a recipe has it."""
    import torch

    from dhvt.data.preprocess import Preprocess
    from dhvt.training.augmentation.draws import Draws
    from dhvt.training.config import Recipe
    from dhvt.training.transforms import BatchTransform

    transform = BatchTransform(
        Recipe.preset(recipe_name), Preprocess(size=size), device, num_classes=NUM_CLASSES, size_multiple=0
    )
    images = torch.randint(0, 256, (batch_size, *size, 3), dtype=torch.uint8, device=device)
    labels = torch.randint(0, NUM_CLASSES, (batch_size,), device=device)
    laps = Clock(device)
    for step in range(steps):
        laps.start()
        keys = np.array([[step, index, 0] for index in range(batch_size)])
        transform(images, labels, Draws(0, keys), step, 1.0)
        laps.lap("data")
    return laps.medians()["data"]


def run_contender(
    contender: str, name: str, batch_size: int, steps: int, img_size: int | None = None, recipe: str = "short"
) -> dict[str, Any]:
    """Starts :func:`measure` as ``dhvt train`` would start, with its allocator for ours."""
    environment = {key: value for key, value in os.environ.items() if key not in ("LD_PRELOAD", "MALLOC_CONF")}
    options = ["--variant", name, "--batch-size", str(batch_size), "--steps", str(steps), "--recipe", recipe]
    options += [] if img_size is None else ["--img-size", str(img_size)]
    command = [sys.executable, __file__, "--contender", contender, *options]
    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    measured: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return measured


def sizes_of(recipe_name: str, variant: str) -> dict[int, float]:
    """The sides of the images that a training sees, in pixels, each with its part of the steps, of 1."""
    from dhvt.model.config import VARIANTS
    from dhvt.training.config import Recipe

    preprocess, parts, start = VARIANTS[variant], {}, 0.0
    for until, scale in Recipe.preset(recipe_name).resolutions:
        parts[max(round(preprocess.img_size[0] * scale / preprocess.patch_size), 1) * preprocess.patch_size] = until - start
        start = until
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="dhvt_tiny_cifar_patch4")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=7, help="per round; the first two are not counted")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--recipe", default="short")
    parser.add_argument("--img-size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        if args.contender == "ours":
            from dhvt.training.allocator import restart_with_allocator

            restart_with_allocator()
        print(json.dumps(measure(args.contender, args.variant, args.batch_size, args.steps, args.img_size, args.recipe)))
        return
    import torch

    from dhvt.hardware.cpus import processor_name

    budget = (args.variant, args.batch_size, args.steps)
    parts = sizes_of(args.recipe, args.variant)
    rounds, rounds_by_size = [], []
    for _ in range(args.rounds):
        rounds.append({name: run_contender(name, *budget, recipe=args.recipe) for name in CONTENDERS})
        rounds_by_size.append({size: run_contender("ours", *budget, size)["images_per_s"] for size in parts})
    rates = {name: round(median(entry[name]["images_per_s"] for entry in rounds), 1) for name in CONTENDERS}
    by_size = {size: round(median(entry[size] for entry in rounds_by_size), 1) for size in parts}
    over_recipe = 1 / sum(part / by_size[size] for size, part in parts.items())
    line = {
        "benchmark": "train_throughput",
        "variant": args.variant,
        "batch_size": args.batch_size,
        "images_per_s": rates,
        "ratio": round(rates["ours"] / rates["straightforward"], 2),
        "recipe": args.recipe,
        "part_of_steps_by_img_size": {size: round(part, 3) for size, part in parts.items()},
        "images_per_s_by_img_size": by_size,
        "ratio_over_recipe": round(over_recipe / rates["straightforward"], 2),
        "split_ms": {name: rounds[0][name]["split_ms"] for name in CONTENDERS},
        "peak_memory_mib": {name: rounds[0][name]["peak_memory_mib"] for name in CONTENDERS},
        "loss_difference": max(abs(entry["ours"]["loss"] - entry["straightforward"]["loss"]) for entry in rounds),
        "rounds": args.rounds,
        "processor": processor_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
