"""``predictions.parquet``: what a model says of every image of an evaluation; ``predictions.csv`` without pyarrow."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dhvt.data.sources import ImageSource
from dhvt.data.text import encodable
from dhvt.evaluation.calibration import softmax
from dhvt.evaluation.metrics import Outputs


def write_predictions(folder: Path, source: ImageSource, outputs: Outputs, temperature: float) -> Path:
    """Writes a row for each image that could be read, and returns the path.

    The columns are ``file``, ``true``, ``predicted``, ``confidence`` (the probability of the predicted class),
    ``true_probability``, and ``p:<class>`` for each class; probabilities are those at the temperature, as served.
    """
    columns = _columns(source, outputs, temperature)
    for name in ("predictions.parquet", "predictions.csv"):
        (folder / name).unlink(missing_ok=True)  # of an older report, which may have been written in the other format
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        return _write_csv(folder / "predictions.csv", columns)
    path = folder / "predictions.parquet"
    table = pa.Table.from_arrays([pa.array(values) for values in columns.values()], names=list(columns))
    pq.write_table(table, path)
    return path


def _columns(source: ImageSource, outputs: Outputs, temperature: float) -> dict[str, Any]:
    probabilities = softmax(outputs.logits / temperature).astype(np.float32)
    classes = [encodable(name) for name in source.classes]
    predicted = probabilities.argmax(axis=1)
    rows = np.arange(len(predicted))
    columns: dict[str, Any] = {
        "file": [encodable(source.name(int(index))) for index in outputs.indices],
        "true": [classes[label] for label in outputs.labels],
        "predicted": [classes[label] for label in predicted],
        "confidence": probabilities[rows, predicted],
        "true_probability": probabilities[rows, outputs.labels],
    }
    return columns | {f"p:{name}": probabilities[:, label] for label, name in enumerate(classes)}


def _write_csv(path: Path, columns: Mapping[str, Sequence[Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path
