"""Training images/s of DHVT against the straightforward implementation: the same weights, batch and steps.

    python benchmarks/train_throughput.py

Straightforward: PyTorch in fp32 as one writes it down, with fused attention, feature maps as (B, D, gh, gw) in memory,
and the C library's allocator. Ours: what ``dhvt train`` does here. The two take turns, each in a process of its own;
the figures are medians of the rounds. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from statistics import median

CONTENDERS = ("straightforward", "ours")
NUM_CLASSES = 10


def compute_straightforwardly() -> None:
    """Has the modules of a DHVT compute the way a first implementation would; their parameters stay."""
    import torch
    from torch.nn import functional

    from dhvt.layers import DAFF, MHSA

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


def measure(contender: str, name: str, batch_size: int, steps: int) -> dict[str, float]:
    """Runs in a process of its own: images/s of the median step, and the last loss to compare.

    Args:
        name: a DHVT variant or, for ours, any classifier of timm.
    """
    import torch
    from torch.nn import functional

    from dhvt.distributed import open_accelerator
    from dhvt.zoo import build, configure

    torch.manual_seed(0)
    ours = contender == "ours"
    if not ours:
        compute_straightforwardly()
    config = configure(name, num_classes=NUM_CLASSES)
    model = build(name, config).train()
    accelerator = open_accelerator("auto", "auto" if ours else "off")
    model = accelerator.prepare_model(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    device = accelerator.device
    images = torch.randn(batch_size, 3, *config["img_size"], device=device)
    labels = torch.randint(0, NUM_CLASSES, (batch_size,), device=device)
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        loss = functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        value = loss.item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return {"images_per_s": batch_size / median(seconds[2:]), "loss": value}


def run_contender(contender: str, name: str, batch_size: int, steps: int) -> dict[str, float]:
    """Starts :func:`measure` as ``dhvt train`` would start, with its allocator for ours."""
    environment = {key: value for key, value in os.environ.items() if key not in ("LD_PRELOAD", "MALLOC_CONF")}
    options = ["--variant", name, "--batch-size", str(batch_size), "--steps", str(steps)]
    command = [sys.executable, __file__, "--contender", contender, *options]
    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="dhvt_tiny_cifar_patch4")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=7, help="per round; the first two are not counted")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        if args.contender == "ours":
            from dhvt.process import restart_with_allocator

            restart_with_allocator()
        print(json.dumps(measure(args.contender, args.variant, args.batch_size, args.steps)))
        return
    import torch

    budget = (args.variant, args.batch_size, args.steps)
    rounds = [{contender: run_contender(contender, *budget) for contender in CONTENDERS} for _ in range(args.rounds)]
    rates = {name: round(median(entry[name]["images_per_s"] for entry in rounds), 1) for name in CONTENDERS}
    line = {
        "benchmark": "train_throughput",
        "variant": args.variant,
        "batch_size": args.batch_size,
        "images_per_s": rates,
        "ratio": round(rates["ours"] / rates["straightforward"], 2),
        "loss_difference": max(abs(entry["ours"]["loss"] - entry["straightforward"]["loss"]) for entry in rounds),
        "rounds": args.rounds,
        "processor": platform.processor() or platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
