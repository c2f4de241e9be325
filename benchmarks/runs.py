"""What the benchmarks that train share: resumable trainings by ``dhvt train``, their test, and the lines of measurements."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dhvt.artifact import load_artifact
from dhvt.data.splits import open_first_split, split_source
from dhvt.hardware.cpus import available_cpus, processor_name
from dhvt.model.checkpoint import load_checkpoint
from dhvt.training.metrics_log import read_history

TESTED = ("top1", "balanced_accuracy", "macro_f1", "ece", "nll", "images", "engine", "precision")


@dataclass(frozen=True)
class Measurements:
    """What a benchmark has measured so far: JSON lines of ``results/<name>.jsonl``, which it omits when it goes on."""

    name: str

    @property
    def path(self) -> Path:
        """The file, which need not exist yet."""
        return Path(__file__).parent / "results" / f"{self.name}.jsonl"

    def lines(self, **values: Any) -> list[dict[str, Any]]:
        """Those that have these values."""
        if not self.path.exists():
            return []
        found = map(json.loads, self.path.read_text(encoding="utf-8").splitlines())
        return [line for line in found if values.items() <= line.items()]

    def find(self, **values: Any) -> dict[str, Any] | None:
        """The last line that has these values."""
        return next(reversed(self.lines(**values)), None)

    def record(self, line: dict[str, Any]) -> None:
        """Appends a line, with the machine, what else it did, and the date; prints it without these."""
        machine: dict[str, Any] = {
            "processor": processor_name(),
            "cores": available_cpus(),
            "load_average": round(os.getloadavg()[0], 1),
            "date": datetime.now(UTC).date().isoformat(),
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"benchmark": self.name, **line, **machine}) + "\n")
        print(json.dumps(line), flush=True)


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


def export_and_test(folder: Path, data: list[object], test: Path) -> dict[str, Any]:
    """Exports a finished run and measures it, in the engine that serves it here, on images that chose nothing.

    Args:
        folder: of the run.
        data: ``--data`` and ``--val`` of its training.
        test: the images to measure on.
    """
    artifact = folder / "artifact"
    _dhvt("export", folder, *data)
    _dhvt("evaluate", "--model", artifact, "--data", test, "--report", folder / "test", "--record")
    measured = load_artifact(artifact).card.metrics["test"]
    return {key: round(measured[key], 4) if isinstance(measured[key], float) else measured[key] for key in TESTED}


def _dhvt(*arguments: object) -> None:
    command = [sys.executable, "-m", "dhvt.cli", *map(str, arguments)]
    print(" ".join(command), file=sys.stderr, flush=True)
    # OpenVINO crashes with jemalloc, which dhvt train restarts itself with where it is not preloaded.
    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    subprocess.run(command, check=True, stdout=sys.stderr, env=environment)


def learning_curve(folder: Path) -> dict[str, Any]:
    """The losses and the validation accuracy after each epoch of a run."""
    rows = [
        [epoch["epoch"], round(epoch["train_loss"], 4), round(epoch["val_loss"], 4), round(epoch["val_top1"], 2)]
        for epoch in read_history(folder / "metrics.jsonl")
    ]
    return {"columns": ["epoch", "train_loss", "val_loss", "val_top1"], "rows": rows}
