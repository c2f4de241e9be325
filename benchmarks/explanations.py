"""How faithful the maps of ``dhvt explain`` are: deletion and insertion curves, and maps of models with shuffled weights.

    python benchmarks/explanations.py --data test.parquet >> benchmarks/results/explanations.jsonl

Prints one JSON line for

    curves  area under the probability of the model's own answer while the pixels that a map ranks highest are replaced by the
            mean colour (deletion, less is better) or are put into a blurred copy (insertion, more is better), of 17 points;
            the mean over the images, with the standard error of the difference of the two
    random  Spearman's correlation of a map with that of the same model with shuffled weights, of its classifier alone or of all
            layers, each tensor within itself (Adebayo et al., 2018: a map that stays the same explains no model); for masking
            also with another seed, which is how far two maps of one model agree

The maps besides those of ``dhvt explain``: noise, and the nearness to the centre, where objects are.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from PIL import Image, ImageFilter
from tqdm import tqdm

from dhvt.artifact import GRAPH_NAME, OPENVINO, Artifact, load_artifact, write_card
from dhvt.data.batches import iterate_batches
from dhvt.data.sources import Subset, open_dataset
from dhvt.engines import EngineOptions, open_engine
from dhvt.engines.registry import build_engine
from dhvt.engines.settings import BUNDLED_MODEL
from dhvt.evaluation.calibration import softmax
from dhvt.explanation.attention import AttentionGraph
from dhvt.explanation.masking import MaskingMap
from dhvt.hardware.cpus import available_cpus, processor_name

STEPS = 16
BLUR = 4  # standard deviation in pixels, of an image of 32
BATCH = 32

Predict = Callable[[np.ndarray], np.ndarray]
Maps = dict[str, np.ndarray]


class Model:
    """A model's probabilities, and its maps of an image for one class."""

    def __init__(self, artifact: Artifact, predict: Predict) -> None:
        self.card, self._predict = artifact.card, predict
        self.fill = 255 * np.array(artifact.card.preprocess.mean, np.float32)
        self._graph = AttentionGraph(artifact, available_cpus())

    def scores(self, images: np.ndarray) -> np.ndarray:
        batches = [self._predict(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
        return softmax(np.concatenate(batches) / self.card.temperature)

    def attention_maps(self, pixels: np.ndarray) -> Maps:
        attention = self._graph.run(pixels)
        return {
            "head tokens, last layer": attention.head_tokens[-1].mean(axis=0),
            "head tokens, all layers": attention.head_tokens.mean(axis=(0, 1)),
            "class token, last layer": attention.class_token[-1],
            "rollout": attention.rollout[-1],
        }

    def masking_maps(self, pixels: np.ndarray, index: int, budgets: list[int], seed: int = 0) -> Maps:
        masking, maps, done = MaskingMap(pixels, self.fill, masks=max(budgets), seed=seed), {}, 0
        for images in masking.batches(int(np.gcd.reduce([*budgets, BATCH * max(budgets)]))):
            masking.add(self.scores(images)[:, index])
            done += len(images)
            if done in budgets:
                maps[f"masking, {done} masks"] = masking.map()
        return maps


def curves(model: Model, pixels: np.ndarray, index: int, values: np.ndarray) -> tuple[float, float]:
    """The areas under the deletion and the insertion curve, 0 to 1."""
    height, width = pixels.shape[:2]
    spread = np.asarray(Image.fromarray(values.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR))
    order = np.argsort(-spread, axis=None, kind="stable")
    blurred = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(BLUR * min(height, width) / 32)))
    filled = np.broadcast_to(model.fill.round().astype(np.uint8), pixels.shape)
    images = []
    for start, end in ((pixels, filled), (blurred, pixels)):
        for count in np.linspace(0, height * width, STEPS + 1).astype(int):
            image = start.reshape(-1, 3).copy()
            image[order[:count]] = end.reshape(-1, 3)[order[:count]]
            images.append(image.reshape(pixels.shape))
    points = model.scores(np.stack(images))[:, index].reshape(2, STEPS + 1)
    areas = (points[:, :-1] + points[:, 1:]).mean(axis=1) / 2
    return float(areas[0]), float(areas[1])


def measure_curves(model: Model, images: np.ndarray, budgets: list[int]) -> Iterator[dict[str, object]]:
    rng = np.random.default_rng(0)
    height, width = images.shape[1:3]
    y, x = np.mgrid[:height, :width]
    centre = -np.hypot(y - (height - 1) / 2, x - (width - 1) / 2)
    areas: dict[str, list[tuple[float, float]]] = {}
    for pixels, index in zip(tqdm(images, unit="image"), model.scores(images).argmax(axis=1), strict=True):
        maps = {"noise": rng.random((8, 8)), "centre": centre}
        maps |= model.attention_maps(pixels) | model.masking_maps(pixels, index, budgets)
        for name, values in maps.items():
            areas.setdefault(name, []).append(curves(model, pixels, index, values))
    for name, rows in areas.items():
        deletion, insertion = np.array(rows).T
        gap = insertion - deletion
        yield {
            "measure": "curves",
            "map": name,
            "images": len(rows),
            "deletion": round(deletion.mean(), 4),
            "insertion": round(insertion.mean(), 4),
            "difference": round(gap.mean(), 4),
            "standard_error": round(gap.std(ddof=1) / len(rows) ** 0.5, 4),
        }


def shuffled(artifact: Artifact, folder: Path, part: str) -> Model:
    """The model with the values of each weight tensor shuffled: of ``part``, ``classifier`` or ``all layers``."""
    for name in artifact.card.files:
        shutil.copy(artifact.path / name, folder)
    graph = onnx.load(folder / GRAPH_NAME)
    content, rng, start = (folder / GRAPH_NAME).read_bytes(), np.random.default_rng(0), 0
    for tensor in graph.graph.initializer:
        offset = content.find(tensor.raw_data, start)
        if numpy_helper.to_array(tensor).dtype != np.float32 or len(tensor.raw_data) < 1024 or offset < 0:
            continue
        start = offset + len(tensor.raw_data)
        if part == "all layers" or tensor.name == "model.head.weight":
            # in place, because the graph with the attention takes its weights from the same bytes
            values = rng.permutation(np.frombuffer(tensor.raw_data, np.float32)).tobytes()
            content = content[:offset] + values + content[start:]
    (folder / GRAPH_NAME).write_bytes(content)
    variants = tuple(variant for variant in artifact.card.variants if variant.format != OPENVINO)
    write_card(folder, replace(artifact.card, variants=variants))
    changed = load_artifact(folder)
    options = EngineOptions(threads=available_cpus(), max_batch_size=BATCH)
    return Model(changed, build_engine(changed, "onnxruntime:fp32", options).predict)  # no self-test: it is another model


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's."""
    ranks = [np.argsort(np.argsort(values, axis=None, kind="stable")) for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def measure_random(artifact: Artifact, model: Model, images: np.ndarray, masks: int) -> Iterator[dict[str, object]]:
    indices = model.scores(images).argmax(axis=1)

    def all_maps(of: Model, seed: int = 0) -> list[Maps]:
        pairs = zip(tqdm(images, unit="image"), indices, strict=True)
        return [of.attention_maps(pixels) | of.masking_maps(pixels, index, [masks], seed) for pixels, index in pairs]

    before = all_maps(model)
    others = {"other seed": all_maps(model, 1)}
    for part in ("classifier", "all layers"):
        with tempfile.TemporaryDirectory() as folder:
            others[part] = all_maps(shuffled(artifact, Path(folder), part))
    for against, maps in others.items():
        for name in maps[0]:
            if against == "other seed" and not name.startswith("masking"):
                continue
            values = [correlation(one[name], other[name]) for one, other in zip(before, maps, strict=True)]
            row = {"measure": "random", "map": name, "against": against, "images": len(values)}
            yield row | {"rank_correlation": round(float(np.mean(values)), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="labelled images, as for dhvt evaluate")
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--random-images", type=int, default=50)
    parser.add_argument("--masks", type=int, nargs="+", default=[50, 100, 200, 400])
    parser.add_argument("--random-masks", type=int, default=400)
    options = parser.parse_args()
    artifact = load_artifact(options.model)
    engine = open_engine(artifact, options.engine, threads=available_cpus(), max_batch_size=BATCH).engine
    model = Model(artifact, engine.predict)
    source = open_dataset(options.data, None, artifact.card.classes)
    chosen = Subset(source, np.linspace(0, len(source) - 1, options.images).round().astype(np.int64))
    images = np.concatenate([batch.images for batch in iterate_batches(chosen, artifact.card.preprocess, 256)])
    common = {
        "benchmark": "explanations",
        "model": artifact.card.name,
        "engine": f"{engine.name}:{engine.precision}",
        "processor": processor_name(),
    }
    for row in measure_curves(model, images, options.masks):
        print(json.dumps(common | row), flush=True)
    for row in measure_random(artifact, model, images[: options.random_images], options.random_masks):
        print(json.dumps(common | row), flush=True)


if __name__ == "__main__":
    main()
