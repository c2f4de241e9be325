"""DHVT-T against what one would take instead: the same images, epochs and recipe for each.

    python benchmarks/comparison.py --data ../shared/data/cifar10/train.parquet \\
        --val ../shared/data/cifar10/test.parquet --train-images 10000 --epochs 10 --out runs/comparison

Each model is trained by ``dhvt train``, exported, and measured in the engine that would serve it here. With
``--all-models``, the others of the paper's table are trained for one short epoch, to show that they run. Speeds are those
of images of the full size, measured when all are trained, so that what else ran meanwhile does not matter.
Writes OUT/comparison.md and prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dhvt.artifact import load_artifact
from dhvt.engines import open_engine
from dhvt.hardware.cpus import available_cpus, processor_name
from dhvt.model.checkpoint import load_checkpoint
from export.pipeline import export_model
from runs import add_budget_options, prepare_data, train_once
from train_throughput import run_contender

MODELS = ("dhvt_tiny_cifar_patch4", "resnet18", "resnet50", "vit_tiny_patch16_224")
PAPER_MODELS = ("resnext50_32x4d", "seresnet50", "skresnet50", "densenet121", "res2net50_26w_4s", "deit_tiny_patch16_224")
BATCH_SIZE = 32
TRAIN_BATCH_SIZE, TRAIN_STEPS = 128, 5


def serving_rate(path: Path, seconds: float = 10.0) -> dict[str, Any]:
    """Images/s of an artifact in batches of 32, in the engine that serves it here."""
    artifact = load_artifact(path)
    engine = open_engine(artifact, "auto", threads=available_cpus()).engine
    images = np.random.default_rng(0).integers(0, 256, (BATCH_SIZE, *artifact.card.preprocess.size, 3), dtype=np.uint8)
    engine.predict(images)
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        engine.predict(images)
        done += BATCH_SIZE
    return {"engine": engine.name, "serving_images_per_s": done / (time.perf_counter() - start)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_budget_options(parser)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--all-models", action="store_true", help=f"also one epoch of {', '.join(PAPER_MODELS)}")
    args = parser.parse_args()
    data = prepare_data(args)
    results: dict[str, dict[str, Any]] = {}
    for name in (*args.models, *(PAPER_MODELS if args.all_models else ())):
        budget = argparse.Namespace(**vars(args) | ({} if name in args.models else {"epochs": 1}))
        out = args.out / name
        metrics = train_once(out, data, budget, 0, ["--variant", name])
        results[name] = {
            "epochs": budget.epochs,
            "parameters": metrics["parameters"],
            "top1": round(metrics["val_top1"], 2),
        }
    for name in tqdm(results, desc="speeds"):
        rate = run_contender("ours", name, TRAIN_BATCH_SIZE, TRAIN_STEPS)["images_per_s"]
        artifact = export_model(load_checkpoint(args.out / name / "ckpt.pt"), args.out / name / "artifact")
        results[name] |= {"training_images_per_s": round(rate, 1), **serving_rate(artifact.path)}
    lines = ["| model | epochs | parameters | top-1 % | training images/s | serving images/s |", "|---|---|---|---|---|---|"]
    for name, entry in results.items():
        rates = f"{entry['training_images_per_s']:.0f} | {entry['serving_images_per_s']:.0f}"
        lines.append(f"| {name} | {entry['epochs']} | {entry['parameters']:,} | {entry['top1']:.2f} | {rates} |")
    recipe = " ".join([f"`{args.recipe}`", *args.train_option])
    text = (
        f"# Comparison\n\n{args.train_images or 'All'} training images, recipe {recipe}. Speeds on {processor_name()}, "
        f"{available_cpus()} processors, in batches of {TRAIN_BATCH_SIZE} (training) and {BATCH_SIZE} (serving).\n"
    )
    (args.out / "comparison.md").write_text("\n".join([text, *lines, ""]), encoding="utf-8")
    line = {"benchmark": "comparison", "train_images": args.train_images, "models": results, "processor": processor_name()}
    print(json.dumps(line))


if __name__ == "__main__":
    main()
