"""False alarms and delays of the test for drift, by simulation on what the bundled model answers to real images.

    python benchmarks/drift.py --cifar cifar-10/ --hands hands/ --out runs/drift > benchmarks/results/drift.jsonl

The engine runs once over CIFAR-10's test images, over half of them blurred, grey, darker and as JPEG of quality 10, and over
images of hands, all decoded as the server does. Streams are then drawn with replacement:

exchangeable   reference and stream from all test images: the situation that the bound is about
other half     the reference from one half, another one for each stream, and the stream from the other half. These are finite
               sets: a stream of more images than the half has shows the difference between the halves, which is real drift
               of the size of sampling error, so that the bound is not promised here

Delays are of streams from the other half of one fixed split that are undisturbed for 3,200 images; from then on each image is,
with the probability ``share``, one of the disturbed. Prints one JSON line for each row.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhvt import Classifier, open_dataset
from dhvt.confidence.drift import BLOCK, DriftTest
from dhvt.data.sources import Subset
from dhvt.engines.settings import BUNDLED_MODEL
from dhvt.evaluation.calibration import softmax
from disturbances import DISTURBANCES, read_logits

Answers = NDArray[np.float64]
"""``(N, 2)``: predicted classes and top scores."""

FALSE_ALARM = 0.01
STREAM = 10_000
UNDISTURBED = 3_200
SHARES = (0.05, 0.2, 0.5)
OTHER_MIX = (3, 5)  # cats and dogs


def first_alarm(reference: Answers, stream: Answers, seed: int) -> int | None:
    """After how many images there is an alarm."""
    test = DriftTest(reference[:, 0].astype(int), reference[:, 1], 10, alarm_at=1 / FALSE_ALARM, seed=seed)
    for start in range(0, len(stream), BLOCK):
        block = stream[start : start + BLOCK]
        test.update(block[:, 0].astype(int), block[:, 1])
        if test.alarm is not None:
            return test.alarm.images
    return None


def count_false_alarms(answers: Answers, design: str, size: int, streams: int) -> dict[str, Any]:
    """How many undisturbed streams have an alarm."""
    alarms = 0
    for seed in range(streams):
        rng = np.random.default_rng([1, size, seed])
        order = rng.permutation(len(answers))
        reference, others = order[:size], order[len(order) // 2 :]
        if design == "exchangeable":
            reference, others = rng.integers(0, len(answers), size), order
        stream = answers[rng.choice(others, STREAM)]
        alarms += first_alarm(answers[reference], stream, seed) is not None
    allowed = FALSE_ALARM * streams if design == "exchangeable" else None
    return {
        "design": design,
        "reference": size,
        "streams": streams,
        "images": STREAM,
        "alarms": alarms,
        "expected_at_most": allowed,
    }


def measure_delay(
    reference: Answers, usual: Answers, disturbed: Answers, share: float, size: int, streams: int
) -> dict[str, Any]:
    """After how many images from its beginning a disturbance is found; early alarms, which are false, are counted alone."""
    found: list[float] = []
    early = 0
    for seed in range(streams):
        rng = np.random.default_rng([2, size, seed])
        stream = usual[rng.integers(0, len(usual), UNDISTURBED + STREAM)]
        changed = np.flatnonzero(rng.random(len(stream)) < share)
        changed = changed[changed >= UNDISTURBED]
        stream[changed] = disturbed[rng.integers(0, len(disturbed), len(changed))]
        at = first_alarm(reference[rng.permutation(len(reference))[:size]], stream, seed)
        if at is not None and at <= UNDISTURBED:
            early += 1
        else:
            found.append(np.inf if at is None else at - UNDISTURBED)
    delays = np.quantile(found, [0.5, 0.9], method="higher").tolist()
    return {
        "share": share,
        "reference": size,
        "streams": streams,
        "delay_median": None if np.isinf(delays[0]) else delays[0],
        "delay_90_percent": None if np.isinf(delays[1]) else delays[1],
        "not_found": int(np.isinf(found).sum()),
        "early": early,
    }


def measure_cost(answers: Answers) -> dict[str, Any]:
    """Processor time of the test for one image."""
    test = DriftTest(answers[:, 0].astype(int), answers[:, 1], 10)
    start = time.process_time()
    test.update(answers[:, 0].astype(int), answers[:, 1])
    return {"measure": "cost", "us_per_image": round((time.process_time() - start) / test.images * 1e6, 2)}


def read_answers(args: argparse.Namespace) -> tuple[Answers, NDArray[np.int64], dict[str, Answers], NDArray[np.int64]]:
    """The answers to the undisturbed images with their right labels, those by disturbance, and the half that they are of."""
    classifier = Classifier.load(BUNDLED_MODEL, args.engine)
    temperature = classifier.artifact.card.temperature
    source = open_dataset(args.cifar, "test", classifier.classes)
    half = np.sort(np.random.default_rng(0).permutation(len(source))[len(source) // 2 :])

    def read(images: Any, kind: str, name: str) -> Answers:
        scores = softmax(read_logits(classifier, images, kind, args.out / f"{name}.npy") / temperature)
        return np.column_stack([scores.argmax(axis=1), scores.max(axis=1)])

    disturbed = {kind: read(Subset(source, half), kind, kind) for kind in DISTURBANCES}
    disturbed["hands"] = read(open_dataset(args.hands, "test"), "none", "hands")
    answers = read(source, "none", "none")
    disturbed["cats and dogs only"] = answers[half][np.isin(source.labels[half], OTHER_MIX)]
    return answers, source.labels, disturbed, half


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, required=True)
    parser.add_argument("--hands", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/drift"), help="where logits are kept")
    parser.add_argument("--engine", default="openvino:int8")
    parser.add_argument("--streams", type=int, default=100)
    args = parser.parse_args()
    answers, labels, disturbed, half = read_answers(args)
    model = {"benchmark": "drift", "model": BUNDLED_MODEL.name, "engine": args.engine}
    for row in rows(answers, labels, disturbed, half, args.streams):
        print(json.dumps(model | row), flush=True)


def rows(
    answers: Answers, labels: NDArray[np.int64], disturbed: dict[str, Answers], half: NDArray[np.int64], streams: int
) -> Iterable[dict[str, Any]]:
    """Every row of the results."""
    yield measure_cost(answers)
    for kind, found in {"none": answers[half], **disturbed}.items():
        right = None if kind == "hands" else labels[half] if len(found) == len(half) else None
        accuracy = None if right is None else round(float((found[:, 0] == right).mean()), 4)
        yield {
            "measure": "answers",
            "disturbance": kind,
            "accuracy": accuracy,
            "mean_score": round(float(found[:, 1].mean()), 4),
        }
    for design, number in (("exchangeable", streams), ("exchangeable", 10 * streams), ("other half", streams)):
        for size in (1000, 5000):
            yield {"measure": "false alarms", "promise": FALSE_ALARM} | count_false_alarms(answers, design, size, number)
    reference = np.delete(answers, half, axis=0)
    for size in (5000, 1000):
        for kind, found in disturbed.items():
            for share in SHARES:
                delay = measure_delay(reference, answers[half], found, share, size, streams)
                yield {"measure": "delay", "disturbance": kind} | delay


if __name__ == "__main__":
    main()
