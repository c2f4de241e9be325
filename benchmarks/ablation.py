"""The ablation of the paper's Tables 5 and 6 at an equal, small budget.

    python benchmarks/ablation.py --data cifar100/ --epochs 3 --out runs/ablation

From a DeiT-T with 4 heads to a DHVT-T, one modification after the other: the same images, epochs and recipe, and two seeds
where rows are near each other. Appends a JSON line for each training to ``results/ablation.jsonl``, and omits those that are
there; one that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from typing import Any

from runs import Measurements, add_budget_options, learning_curve, prepare_data, train_once

MEASURED = Measurements("ablation")


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
        Row("DeiT-T, 4 heads", plain | {"pos_embed": True}, 67.59),
        Row("without position embedding", plain, 58.72),
        Row("+ SOPE", plain | sope),
        Row("+ HI-MHSA", plain | {"pos_embed": True} | himhsa, None, (0, 1)),
        Row("+ DAFF", plain | daff, None, (0, 1)),
        Row("+ SOPE + DAFF", plain | sope | daff, None, (0, 1)),
        Row("DHVT-T: all three", plain | sope | daff | himhsa, 67.59 + 13.26, (0, 1)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_budget_options(parser)
    parser.add_argument("--variant", default="dhvt_tiny_cifar_patch4")
    args = parser.parse_args()
    data = prepare_data(args)
    budget = {"recipe": args.recipe, "epochs": args.epochs, "train_images": args.train_images or "all"}
    trainings = [(seed, number, row) for number, row in enumerate(rows()) for seed in row.seeds]
    for seed, number, row in sorted(trainings, key=lambda training: training[:2]):  # all rows, then their second seeds
        key = {"row": row.name, "seed": seed, **budget}
        if MEASURED.find(**key):
            continue
        folder = args.out / f"{number}-seed{seed}"
        options = ["--variant", args.variant, "--resolutions", "1:1"]  # a position embedding is for one size
        options += [f"--model-option={name}={json.dumps(value).strip(chr(34))}" for name, value in row.options.items()]
        result = train_once(folder, data, args, seed, options)
        measured = {name: round(result[name], 4) for name in ("val_top1", "val_loss", "train_seconds")}
        line = {**key, **measured, "parameters": result["parameters"], "published": row.published}
        MEASURED.record(line | {"curve": learning_curve(folder)})


if __name__ == "__main__":
    main()
