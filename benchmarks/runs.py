"""Many trainings with one budget, for the benchmarks that compare models: resumable, each by ``dhvt train``."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from dhvt.data.splits import open_first_split, split_source
from dhvt.model.checkpoint import load_checkpoint


def add_budget_options(parser: argparse.ArgumentParser) -> None:
    """What all trainings of a comparison share."""
    parser.add_argument("--data", type=Path, required=True, help="as for dhvt train, with a test part or --val")
    parser.add_argument("--val", type=Path, help="the images that accuracy is measured on, where --data has no such part")
    parser.add_argument("--train-images", type=int, help="use only so many, the same part of each class; default: all")
    parser.add_argument("--recipe", default="short")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--train-option", action="append", default=[], metavar="--NAME=VALUE", help="more for dhvt train")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs; a second start goes on where one stopped")


def prepare_data(args: argparse.Namespace) -> list[str]:
    """``--data`` and ``--val`` for ``dhvt train``, after cutting the training part down to ``--train-images``."""
    val = args.val or args.data
    source = open_first_split(args.data, ["train"]).source
    if args.train_images is None or args.train_images >= len(source):
        return ["--data", str(args.data), "--val", str(val)]
    path = args.out / f"train-{args.train_images}.parquet"
    if not path.exists():
        _, part = split_source(source, args.train_images / len(source), seed=0)
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_parquet(part, path)
    return ["--data", str(path), "--val", str(val)]


def _write_parquet(source: Any, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    features = {"image": {"_type": "Image"}, "label": {"names": list(source.classes), "_type": "ClassLabel"}}
    images = [{"bytes": source.read(index), "path": None} for index in range(len(source))]
    table = pa.table({"image": images, "label": source.labels})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), path)


def train_once(out: Path, data: list[str], args: argparse.Namespace, seed: int, options: list[str]) -> dict[str, Any]:
    """One training, or what is left of it; returns its last metrics and its number of parameters."""
    command = [sys.executable, "-m", "dhvt.cli", "train", *data, "--out", str(out), "--recipe", args.recipe]
    command += ["--epochs", str(args.epochs), "--seed", str(seed), "--resume", *args.train_option, *options]
    print(" ".join(command), file=sys.stderr)
    subprocess.run(command, check=True, stdout=sys.stderr)
    checkpoint = load_checkpoint(out / "ckpt.pt")
    parameters = sum(parameter.numel() for parameter in checkpoint.build_model().parameters())
    return checkpoint.metrics | {"parameters": parameters}
