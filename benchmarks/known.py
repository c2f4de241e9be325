"""Which images a model knows: scores compared, the promise of ``reject`` in each precision, and what it costs.

    python benchmarks/known.py --known test.parquet --unknown near:cifar100/test far:hands/test far:textures > known.json

A seeded half of the labelled images becomes the reference of a copy of the model; everything is measured on the other half and
on the unknown images, all decoded as the server decodes them. Prints one JSON line for

    score   AUROC of a score by unknown set, 50 being chance, and the share of the unknown images that it rejects at 5 and 1 %
            of known ones. Scores of features are of the head's input in fp32, and fitted to the reference
    reject  the share of known images that are rejected in a precision, with its 95 % interval, and of unknown ones
    splits  the mean of that share over many divisions of the known images, and the middle 95 % of it
    cost    milliseconds of one image's p-value and of the engine
    photo   the p-values of one image, with --photo

OpenOOD publishes 90.5 (near) and 93.1 (far) for a ResNet-18 trained on CIFAR-10; of its data sets only CIFAR-100 is among ours.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
from onnx import TensorProto, helper, numpy_helper
from tqdm import tqdm

from dhvt.artifact import INPUT_NAME, OUTPUT_NAME, Artifact, load_artifact
from dhvt.assessment import Asked, Assessor
from dhvt.confidence.known import NoveltyIndex, measure_novelty, p_values
from dhvt.confidence.reference import load_reference, write_reference
from dhvt.data.decode import read_file
from dhvt.data.preprocess import preprocess_image
from dhvt.data.sources import ImageSource, Subset, open_dataset
from dhvt.data.splits import open_test_data
from dhvt.engines import EngineOptions, measure_reference, open_engine
from dhvt.engines.settings import BUNDLED_MODEL
from dhvt.errors import ImageError
from dhvt.evaluation.calibration import softmax
from dhvt.hardware.cpus import available_cpus, processor_name
from dhvt.ranking import rank

SUFFIXES = {".jpg", ".jpeg", ".png"}
REJECTED = (0.05, 0.01)
FEATURE_IMAGES = 2_000
SPLITS = 200
BATCH = 8

Score = Callable[[dict[str, np.ndarray]], np.ndarray]


def read_pixels(name: str, reads: list[Callable[[], bytes]], artifact: Artifact) -> np.ndarray:
    """Preprocessed images; those that cannot be read are left out."""
    pixels = []
    for read in tqdm(reads, desc=name, leave=False):
        try:
            pixels.append(preprocess_image(read(), artifact.card.preprocess))
        except ImageError as error:
            tqdm.write(f"left out: {name}: {error}")
    return np.stack(pixels)


def open_unknown(path: Path, limit: int) -> list[Callable[[], bytes]]:
    """Some of the images below a folder, or of a data set, by chance."""
    rng = np.random.default_rng(20)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        return [lambda file=files[row]: read_file(file) for row in rng.permutation(len(files))[:limit]]
    source = open_dataset(path)
    return [lambda row=int(row): source.read(row) for row in rng.permutation(len(source))[:limit]]


def readers(source: ImageSource, limit: int) -> list[Callable[[], bytes]]:
    return [lambda row=row: source.read(row) for row in range(min(limit, len(source)))]


def run(predict: Callable[[np.ndarray], Any], pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([predict(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)])


class FeatureGraph:
    """The fp32 graph with the input of its last matrix product as a second output, and that product's weight and bias."""

    def __init__(self, artifact: Artifact, folder: Path) -> None:
        model = onnx.load(artifact.graph_path)
        head = next(node for node in model.graph.node if OUTPUT_NAME in node.output)
        values = {entry.name: numpy_helper.to_array(entry).astype(float) for entry in model.graph.initializer}
        self.weight, self.bias = values[head.input[1]], values[head.input[2]]
        shape = ["batch", self.weight.shape[1]]
        model.graph.output.append(helper.make_tensor_value_info(head.input[0], TensorProto.FLOAT, shape))
        onnx.save(model, folder / "features.onnx")
        graph = openvino.Core().read_model(folder / "features.onnx")
        graph.reshape({INPUT_NAME: [BATCH, *artifact.card.preprocess.size, 3]})
        self._compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """The logits and the features."""
        rows: list[tuple[np.ndarray, np.ndarray]] = []
        for start in range(0, len(pixels), BATCH):
            batch = pixels[start : start + BATCH]
            filled = np.concatenate([batch, np.repeat(batch[:1], BATCH - len(batch), axis=0)])
            found = self._compiled([filled])
            rows.append((found[0][: len(batch)].copy(), found[1][: len(batch)].copy()))
        return {
            "logits": np.concatenate([row[0] for row in rows]),
            "features": np.concatenate([row[1] for row in rows]).astype(float),
        }


def logit_scores(reference: dict[str, np.ndarray], temperature: float) -> dict[str, Score]:
    """Scores that need no more than logits, higher for stranger images."""
    index = NoveltyIndex(reference["logits"])

    def energy(logits: np.ndarray) -> np.ndarray:
        scaled = logits.astype(float) / temperature
        most = scaled.max(axis=1, keepdims=True)
        return most[:, 0] + np.log(np.exp(scaled - most).sum(axis=1))

    def entropy(logits: np.ndarray) -> np.ndarray:
        scores = softmax(logits / temperature)
        return -(scores * np.log(scores + 1e-12)).sum(axis=1)

    return {
        "novelty (this package)": lambda of: index.score(of["logits"]),
        "maximum probability": lambda of: -softmax(of["logits"] / temperature).max(axis=1),
        "maximum logit": lambda of: -of["logits"].max(axis=1),
        "energy": lambda of: -energy(of["logits"]),
        "entropy": lambda of: entropy(of["logits"]),
    }


def feature_scores(reference: dict[str, np.ndarray], labels: np.ndarray, graph: FeatureGraph) -> dict[str, Score]:
    """Scores of the features before the head: k nearest neighbours, Mahalanobis, relative Mahalanobis, ViM."""
    known, logits = reference["features"], reference["logits"]
    means = np.stack([known[labels == label].mean(axis=0) for label in np.unique(labels)])
    within = _inverse(known - means[np.searchsorted(np.unique(labels), labels)])
    overall = _inverse(known - known.mean(axis=0))
    origin = -np.linalg.pinv(graph.weight) @ graph.bias
    rest = np.linalg.eigh((known - origin).T @ (known - origin))[1][:, : -known.shape[1] // 3]
    weight = logits.max(axis=1).mean() / np.linalg.norm((known - origin) @ rest, axis=1).mean()

    def mahalanobis(features: np.ndarray) -> np.ndarray:
        return np.min([_quadratic(features - mean, within) for mean in means], axis=0)

    def neighbours(features: np.ndarray, k: int = 5) -> np.ndarray:
        products = _unit(features) @ _unit(known).T
        return 1 - np.partition(products, -k, axis=1)[:, -k]

    def vim(of: dict[str, np.ndarray]) -> np.ndarray:
        total = np.log(np.exp(of["logits"].astype(float)).sum(axis=1))
        return weight * np.linalg.norm((of["features"] - origin) @ rest, axis=1) - total

    return {
        "features: nearest neighbours": lambda of: neighbours(of["features"]),
        "features: Mahalanobis": lambda of: mahalanobis(of["features"]),
        "features: relative Mahalanobis": lambda of: (
            mahalanobis(of["features"]) - _quadratic(of["features"] - known.mean(axis=0), overall)
        ),
        "features: ViM": vim,
    }


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _inverse(rows: np.ndarray) -> np.ndarray:
    covariance = rows.T @ rows / len(rows)
    return np.linalg.inv(covariance + 1e-3 * np.trace(covariance) / len(covariance) * np.eye(len(covariance)))


def _quadratic(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return ((rows @ matrix) * rows).sum(axis=1)


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """Percent of pairs in which the unknown image has the higher score; half of those that are equal."""
    below, upto = (np.searchsorted(np.sort(known), unknown, side=side) for side in ("left", "right"))
    return 100 * float((below + upto).mean()) / 2 / len(known)


def interval(count: int, total: int) -> list[float]:
    """The 95 % interval of a share, in percent; Wilson."""
    z, share = 1.96, count / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z * np.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return [round(100 * (middle - half), 2), round(100 * (middle + half), 2)]


def compare_scores(
    artifact: Artifact, sets: dict[str, np.ndarray], kinds: dict[str, str], labels: np.ndarray, folder: Path
) -> None:
    """Prints AUROC and caught images of each score."""
    graph = FeatureGraph(artifact, folder)
    found = {name: graph.run(pixels) for name, pixels in tqdm(sets.items(), desc="features", leave=False)}
    reference = found.pop("reference")
    known = found.pop("known")
    scores = logit_scores(reference, artifact.card.temperature) | feature_scores(reference, labels, graph)
    for name, score in scores.items():
        inside = score(known)
        line: dict[str, Any] = {"benchmark": "known", "what": "score", "score": name}
        line["auroc_percent"] = {entry: round(auroc(inside, score(of)), 1) for entry, of in found.items()}
        for kind in ("near", "far"):
            values = [value for entry, value in line["auroc_percent"].items() if kinds[entry] == kind]
            line[f"{kind}_auroc_percent"] = round(float(np.mean(values)), 1) if values else None
        for share in REJECTED:
            limit = np.quantile(inside, 1 - share)
            caught = {entry: round(100 * float((score(of) > limit).mean()), 1) for entry, of in found.items()}
            line[f"caught_percent_at_{100 * share:g}"] = caught
        line |= {"reference_images": len(reference["logits"]), "known_images": len(inside)}
        print(json.dumps(line), flush=True)


def measure_precision(artifact: Artifact, name: str, sets: dict[str, np.ndarray], photo: np.ndarray | None) -> None:
    """Prints the shares of images that an engine rejects, and what the p-value costs."""
    engine = open_engine(artifact, name, threads=available_cpus(), max_batch_size=BATCH).engine
    assessor, reference = Assessor(artifact, engine.precision), load_reference(artifact)
    assert reference is not None
    measured, _ = reference.find(engine.precision)
    assert measured.index is not None
    assert measured.novelty is not None
    index, novelty = NoveltyIndex(measured.index), np.sort(measured.novelty)
    facts = {"engine": engine.name, "precision": engine.precision, "reference_images": len(reference)}
    logits = {
        entry: run(engine.predict, pixels)
        for entry, pixels in tqdm(sets.items(), desc=name, leave=False)
        if entry != "reference"
    }
    values = {entry: p_values(novelty, index.score(of)) for entry, of in logits.items()}
    known = values.pop("known")
    print(json.dumps({"benchmark": "known", "what": "splits", **facts, **measure_splits(logits["known"])}), flush=True)
    for share in sorted(REJECTED):
        count = int((known <= share).sum())
        line = {"benchmark": "known", "what": "reject", **facts, "promised_percent": 100 * share, "known_images": len(known)}
        line |= {"rejected_percent": round(100 * count / len(known), 2), "interval_percent": interval(count, len(known))}
        line["unknown_rejected_percent"] = {entry: round(100 * float((of <= share).mean()), 1) for entry, of in values.items()}
        print(json.dumps(line), flush=True)
    one = sets["known"][:1]
    ranking = rank(engine.predict(one), artifact.card)[0]
    times = {
        "engine": _time(lambda: engine.predict(one)),
        "p_value": _time(lambda: assessor.assess(ranking, Asked(reject=0.01))),
    }
    line = {"benchmark": "known", "what": "cost", **facts, "processor": processor_name(), "index_images": len(index)}
    line |= {f"{what}_ms": round(value, 4) for what, value in times.items()}
    print(json.dumps(line | {"percent": round(100 * times["p_value"] / times["engine"], 2)}), flush=True)
    if photo is not None:
        answer = rank(engine.predict(photo), artifact.card)[0]
        line = {"benchmark": "known", "what": "photo", **facts, "predictions": answer.top(artifact.card, 3)}
        print(json.dumps(line | assessor.assess(answer, Asked(reject=0.01))), flush=True)


def measure_splits(logits: np.ndarray) -> dict[str, Any]:
    """The shares that are rejected where known images are divided by chance, again and again, into reference and new ones."""
    half = len(logits) // 2
    rejected = []
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(len(logits))
        novelty, index = measure_novelty(logits[order[:half]])
        assert novelty is not None
        assert index is not None
        known = p_values(np.sort(novelty), NoveltyIndex(index).score(logits[order[half:]]))
        rejected.append([100 * float((known <= share).mean()) for share in sorted(REJECTED)])
    return {
        "splits": SPLITS,
        "reference_images": half,
        "promised_percent": [100 * share for share in sorted(REJECTED)],
        "rejected_percent": np.mean(rejected, axis=0).round(2).tolist(),
        "standard_error": (np.std(rejected, axis=0) / np.sqrt(SPLITS)).round(3).tolist(),
        "middle_95_percent": np.quantile(rejected, [0.025, 0.975], axis=0).T.round(2).tolist(),
    }


def _time(call: Callable[[], object], rounds: int = 300) -> float:
    """Median milliseconds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL)
    parser.add_argument("--known", required=True, help="labelled images that the model has not seen")
    parser.add_argument("--unknown", nargs="+", required=True, help="near:PATH or far:PATH, folders with images at any depth")
    parser.add_argument("--limit", type=int, default=2_000, help="images of each unknown set")
    parser.add_argument("--photo", type=Path, help="one image that is none of the classes")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        artifact = load_artifact(shutil.copytree(args.model, folder / "model"))
        source, _ = open_test_data(args.known, None, artifact.card.classes)
        order = np.random.default_rng(0).permutation(len(source))
        half, other = Subset(source, order[: len(order) // 2]), Subset(source, order[len(order) // 2 :])
        sets = {
            "reference": read_pixels("reference", readers(half, FEATURE_IMAGES), artifact),
            "known": read_pixels("known", readers(other, len(other)), artifact),
        }
        kinds = {}
        for entry in args.unknown:
            kind, _, path = entry.partition(":")
            name = Path(path).parent.name if Path(path).name in ("test", "train") else Path(path).stem
            kinds[name] = kind
            sets[name] = read_pixels(name, open_unknown(Path(path), args.limit), artifact)
        photo = None if args.photo is None else preprocess_image(read_file(args.photo), artifact.card.preprocess)[None]
        few = sets | {"known": sets["known"][:FEATURE_IMAGES]}
        compare_scores(artifact, few, kinds, half.labels[:FEATURE_IMAGES], folder)
        options = EngineOptions(threads=available_cpus(), max_batch_size=BATCH)
        reference = measure_reference(artifact, half, options, on_engine=lambda name: tqdm.write(f"reference in {name}"))
        artifact = write_reference(artifact, reference, {})
        for precision in reference.measured:
            measure_precision(artifact, f"openvino:{precision}", sets, photo)


if __name__ == "__main__":
    main()
