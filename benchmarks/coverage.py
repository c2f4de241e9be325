"""Do prediction sets keep their promise, and which method has the smallest ones?

    python benchmarks/coverage.py --model serving/models/dhvt_tiny_cifar10 --data cifar10/test.parquet

The images, which the model has not seen, are halved by chance: one half is the reference, the other is measured. One JSON line
for each engine, method and coverage: measured coverage on the other half and the interval that its size allows, mean set size,
and both on average over 200 other halvings. ``kept`` marks the product's method.

lac      1 - p(label); sets may be empty
top      lac, but the most likely label always fits
aps      the probability of all labels that are as likely or likelier (Romano et al. 2020), without randomisation
class    top, with a threshold for each class (``by_class`` of the product)
raps     aps, and 0.1 more for each label beyond the first (Angelopoulos et al. 2021), without randomisation
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from dhvt.artifact import load_artifact
from dhvt.confidence.coverage import STATED, covered_quantiles
from dhvt.confidence.sets import find_class_thresholds, find_threshold, nonconformity
from dhvt.data.sources import open_dataset
from dhvt.data.splits import open_test_data
from dhvt.engines import EngineOptions, build_engine
from dhvt.errors import EngineError
from dhvt.evaluation.calibration import softmax
from dhvt.evaluation.metrics import collect_outputs

HALVINGS = 200
KEPT = "top"


def aps(probabilities, penalty=0.0):
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ranks = np.argsort(order, axis=1)
    cumulated = np.take_along_axis(probabilities, order, axis=1).cumsum(axis=1)
    return np.take_along_axis(cumulated, ranks, axis=1) + penalty * ranks


METHODS = {
    "lac": lambda probabilities: 1 - probabilities,
    "top": nonconformity,
    "class": nonconformity,
    "aps": aps,
    "raps": lambda probabilities: aps(probabilities, 0.1),
}


def measure(scores, labels, rows, reference, coverage, by_class):
    """Coverage, mean set size, share of empty sets and coverage of the worst class on the images that are not reference."""
    own = scores[np.arange(len(labels)), labels]
    known, others = rows[:reference], rows[reference:]
    if by_class:
        thresholds = find_class_thresholds(own[known], labels[known], scores.shape[1], coverage)
    else:
        thresholds = np.full(scores.shape[1], find_threshold(np.sort(own[known]), coverage))
    chosen = scores[others] <= thresholds
    covered, sizes = chosen[np.arange(len(others)), labels[others]], chosen.sum(axis=1)
    worst = min(covered[labels[others] == label].mean() for label in np.unique(labels[others]))
    return float(covered.mean()), float(sizes.mean()), float((sizes == 0).mean()), float(worst)


def measure_engine(facts, logits, labels, temperature):
    """The rows of one engine."""
    probabilities = softmax(logits / temperature)
    reference = len(labels) // 2
    halvings = [np.random.default_rng(seed).permutation(len(labels)) for seed in range(HALVINGS + 1)]
    for name, method in METHODS.items():
        scores = method(probabilities)
        for coverage in STATED:
            found = [measure(scores, labels, rows, reference, coverage, name == "class") for rows in halvings]
            low, high = covered_quantiles(reference, len(labels) - reference, coverage, (0.025, 0.975))
            yield facts | {
                "method": name,
                "kept": name == KEPT,
                "coverage": coverage,
                "reference_images": reference,
                "images": len(labels) - reference,
                "top1": round(float((probabilities.argmax(axis=1) == labels).mean()), 4),
                "measured": round(found[0][0], 4),
                "low": round(low, 4),
                "high": round(high, 4),
                "mean_size": round(found[0][1], 4),
                "empty": round(found[0][2], 4),
                "measured_over_halvings": round(float(np.mean([row[0] for row in found[1:]])), 4),
                "mean_size_over_halvings": round(float(np.mean([row[1] for row in found[1:]])), 4),
                "worst_class_over_halvings": round(float(np.mean([row[3] for row in found[1:]])), 4),
            }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split")
    parser.add_argument("--engines", nargs="+", default=["openvino:fp32", "openvino:bf16", "openvino:int8"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="append the lines to this file too")
    arguments = parser.parse_args()
    artifact = load_artifact(arguments.model)
    card = artifact.card
    if arguments.split is None:
        source = open_test_data(arguments.data, None, card.classes).source
    else:
        source = open_dataset(arguments.data, arguments.split, card.classes)
    for candidate in arguments.engines:
        options = EngineOptions(threads=arguments.threads, max_batch_size=32)
        try:
            engine = build_engine(artifact, candidate, options)
        except EngineError as error:
            print(json.dumps({"model": card.name, "engine": candidate, "missing": str(error)}))
            continue
        outputs = collect_outputs(engine.predict, source, card.preprocess, batch_size=32)
        facts = {"model": card.name, "data": Path(arguments.data).name, "engine": candidate}
        for row in measure_engine(facts, outputs.logits, outputs.labels, card.temperature):
            line = json.dumps(row)
            print(line, flush=True)
            if arguments.out is not None:
                with arguments.out.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")


if __name__ == "__main__":
    main()
