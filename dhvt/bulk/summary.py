"""What a finished bulk job found, from the rows that it wrote."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from dhvt.artifact import Artifact
from dhvt.bulk.job import BulkJob
from dhvt.confidence.drift import BLOCK, DriftTest
from dhvt.confidence.reference import load_reference
from dhvt.confidence.shares import changed_shares
from dhvt.data.text import encodable

DRIFT_IMAGES = 20_000
"""Images, drawn by chance, of which drift is tested: in random order, so that the test's condition holds."""

_COLUMNS = ["file", "label", "score", "known", "prediction_set", "error"]


def summarise(job: BulkJob, artifact: Artifact) -> dict[str, Any]:
    """Counts, class shares, errors by kind, and how far the images are from the model's reference images."""
    classes = artifact.card.classes
    images = sum(pq.read_metadata(job.path(number)).num_rows for number in range(len(job.units)))
    rng = np.random.default_rng(0)
    labels: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    unknown = sets = labels_in_sets = 0
    drawn: list[tuple[int, float]] = []
    engines = set()
    number_of = {encodable(name): number for number, name in enumerate(classes)}
    for number in range(len(job.units)):
        table = pq.read_table(job.path(number), columns=_COLUMNS)
        engines.add(table.schema.metadata[b"engine"].decode())
        for row in table.to_pylist():
            if row["error"] is not None:
                errors[_kind_of(row["error"], row["file"])] += 1
                continue
            labels[row["label"]] += 1
            unknown += row["known"] is False
            if row["prediction_set"] is not None:
                sets, labels_in_sets = sets + 1, labels_in_sets + len(row["prediction_set"])
            if rng.random() * images < DRIFT_IMAGES:
                drawn.append((number_of[row["label"]], row["score"]))
    classified = sum(labels.values())
    return {
        "images": images,
        "classified": classified,
        "errors": dict(errors.most_common(20)),
        "classes": {name: {"images": count, "share": round(count / classified, 6)} for name, count in labels.most_common()},
        "unknown": unknown,
        "labels_in_a_set": round(labels_in_sets / sets, 4) if sets else None,
        "engines": sorted(engines),
        "drift": _compare(artifact, engines, np.array(rng.permutation(drawn)) if drawn else None, classes),
    }


def _kind_of(message: str, file: str) -> str:
    """The message without what differs from image to image; a key such as ``1``, which is no path, is in no message."""
    return re.sub(r"\d+", "N", message.replace(file, "the file") if "/" in file else message)[:200]


def _compare(artifact: Artifact, engines: set[str], answers: Any, classes: list[str]) -> dict[str, Any] | None:
    """The images beside the reference's; None where there are too few, or none of the precision that was used."""
    reference = load_reference(artifact)
    precisions = {engine.partition(":")[2] for engine in engines}
    if reference is None or answers is None or len(precisions) != 1:
        return None
    measured = reference.measured.get(precisions.pop())
    if measured is None:
        return None
    test = DriftTest(measured.predicted, measured.top_score, len(classes))
    predicted = answers[:, 0].astype(np.int64)
    test.update(predicted, answers[:, 1])
    if not test.images:
        return None
    counts = np.bincount(predicted, minlength=len(classes))
    changes = changed_shares(counts, test.reference_counts)
    return {
        "images": test.images,
        "changed": test.alarm is not None,
        "log10_evidence": round(test.log_evidence / np.log(10), 2),
        "of": None if test.alarm is None else test.alarm.of,
        "shares": {classes[it.label]: [round(it.reference_share, 4), round(it.share, 4)] for it in changes[:20]},
    }


def describe(summary: dict[str, Any]) -> list[str]:
    """The summary as lines of text."""
    images, failed = summary["images"], summary["images"] - summary["classified"]
    lines = [f"{images:,} images, {failed:,} of them could not be read"]
    lines += [f"  {count:,}: {kind}" for kind, count in summary["errors"].items()]
    shown = list(summary["classes"].items())[:10]
    lines.append("classes: " + ", ".join(f"{name} {found['share']:.1%}" for name, found in shown))
    if summary["labels_in_a_set"] is not None:
        lines.append(f"labels in a prediction set: {summary['labels_in_a_set']:.2f} on average")
    if summary["unknown"]:
        lines.append(f"unknown: {summary['unknown']:,}")
    drift = summary["drift"]
    if drift is None:
        lines.append(
            f"drift: not tested; that needs {BLOCK} images, and a model with reference images in the precision that was used: "
            "dhvt calibrate"
        )
    elif drift["changed"]:
        drawn = f"{drift['images']:,} drawn by chance"
        lines.append(f"drift: these are not images like the reference's, by their {drift['of']} ({drawn})")
        lines += [f"  {name}: {before:.1%} of the reference, {now:.1%} here" for name, (before, now) in drift["shares"].items()]
    else:
        lines.append(f"drift: none found ({drift['images']:,} images drawn by chance)")
    return lines
