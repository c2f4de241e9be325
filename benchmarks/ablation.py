"""The ablation of the paper's Tables 5 and 6 at an equal, small budget.

    python benchmarks/ablation.py --data cifar-100/ --train-images 10000 --epochs 10 --out runs/ablation

From a DeiT-T with 4 heads to a DHVT-T, one modification after the other; the same images, epochs and recipe, two
seeds at the two ends. Writes OUT/ablation.md, the measured accuracy beside the published one, and prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from statistics import mean
from typing import Any

from runs import add_budget_options, prepare_data, train_once

PAPER = "300 epochs of all of CIFAR-100, two GPUs"


@dataclass(frozen=True)
class Row:
    """One architecture, the paper's accuracy where it gives one, and the seeds to train it with."""

    name: str
    options: dict[str, Any]
    published: float | None = None
    seeds: tuple[int, ...] = (0,)


def rows() -> list[Row]:
    """Table 5 from the top: each modification alone, pairs, and all three."""
    plain = {"patch_embed": "plain", "attention": "mhsa", "feed_forward": "mlp", "pos_embed": False}
    sope, daff, himhsa = {"patch_embed": "sope"}, {"feed_forward": "daff"}, {"attention": "himhsa"}
    return [
        Row("DeiT-T, 4 heads", plain | {"pos_embed": True}, 67.59, (0, 1)),
        Row("without position embedding", plain, 58.72),
        Row("+ SOPE", plain | sope),
        Row("+ DAFF", plain | daff),
        Row("+ SOPE + DAFF", plain | sope | daff),
        Row("+ HI-MHSA", plain | {"pos_embed": True} | himhsa),
        Row("DHVT-T: all three", plain | sope | daff | himhsa, 67.59 + 13.26, (0, 1)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_budget_options(parser)
    parser.add_argument("--variant", default="dhvt_tiny_cifar_patch4")
    args = parser.parse_args()
    data = prepare_data(args)
    measured: dict[str, list[float]] = {}
    lines = ["| model | parameters | measured top-1 % | by seed | published top-1 % |", "|---|---|---|---|---|"]
    for number, row in enumerate(rows()):
        options = ["--variant", args.variant, "--resolutions", "1:1"]  # a position embedding is for one size
        options += [f"--model-option={name}={json.dumps(value).strip(chr(34))}" for name, value in row.options.items()]
        results = [train_once(args.out / f"{number}-seed{seed}", data, args, seed, options) for seed in row.seeds]
        measured[row.name] = [result["val_top1"] for result in results]
        by_seed = ", ".join(f"{top1:.2f}" for top1 in measured[row.name])
        published = "" if row.published is None else f"{row.published:.2f}"
        lines.append(
            f"| {row.name} | {results[0]['parameters']:,} | {mean(measured[row.name]):.2f} | {by_seed} | {published} |"
        )
    images = args.train_images or "all"
    budget = f"{args.epochs} epochs of {images} training images, recipe `{args.recipe}`"
    head = f"# Ablation\n\nMeasured: {budget}. Published: {PAPER}."
    (args.out / "ablation.md").write_text("\n".join([head, "", *lines, ""]), encoding="utf-8")
    print(json.dumps({"benchmark": "ablation", "epochs": args.epochs, "train_images": images, "top1": measured}))


if __name__ == "__main__":
    main()
