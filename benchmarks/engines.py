"""Images/s and latency of every engine that runs here, beside PyTorch, over batch sizes.

    python benchmarks/engines.py --model runs/mine/artifact --checkpoint runs/mine/ckpt.pt --plot engines.png

The contenders take turns, call by call; figures are medians and 99th percentiles. ``plain onnxruntime`` is ONNX Runtime
with its defaults: on the model exported as it is written where ``--checkpoint`` is given, else on the artifact's graph.
The peak of a float32 matrix product, measured with PyTorch between the batch sizes, tells what the processor could do.
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dhvt.artifact import Artifact, load_artifact
from dhvt.cpus import available_cpus, processor_name
from dhvt.errors import EngineError
from export.parity import onnxruntime_predict
from serving.engines import all_candidates, open_engine
from serving.settings import BUNDLED_MODEL

Predict = Callable[[np.ndarray], Any]
PEAK_SIZE = 2048
PLAIN = "plain onnxruntime"


def engine_contenders(artifact: Artifact, threads: int, largest: int) -> dict[str, Predict]:
    """Every engine and precision that passes its self-test here."""
    found: dict[str, Predict] = {}
    for name in all_candidates(artifact):
        try:
            engine = open_engine(artifact, name, threads=threads, max_batch_size=largest).engine
        except EngineError as error:
            tqdm.write(f"left out: {error}")
        else:
            found[name] = engine.predict
    return found


def torch_contenders(checkpoint: Path, compiled: bool) -> dict[str, Predict]:
    """The plain export in ONNX Runtime with its defaults, PyTorch eager, and ``torch.compile``."""
    import torch

    from dhvt.checkpoint import load_checkpoint
    from dhvt.graph import ServedModel
    from export.to_onnx import OPSET_VERSION, export_graph, torch_predict

    class Plain(ServedModel):
        """As written: the last block computes every token, and the head reads one."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.model.forward_head(self.model.forward_features(self.normalize(images)))

    loaded = load_checkpoint(checkpoint)
    network, cfg = loaded.build_model(), loaded.build_preprocess()
    with tempfile.TemporaryDirectory() as folder:
        export_graph(Plain(network, cfg).eval(), cfg, Path(folder) / "plain.onnx", OPSET_VERSION)
        found = {PLAIN: onnxruntime_predict(Path(folder) / "plain.onnx")}
    model = ServedModel(network, cfg).eval()
    found["torch eager"] = torch_predict(model)
    if compiled:
        found["torch.compile"] = torch_predict(torch.compile(model, dynamic=False))
    return found


def gemm_peak(seconds: float = 1.0) -> float:
    """GFLOP/s of a large float32 matrix product."""
    import torch

    a, b = torch.randn(PEAK_SIZE, PEAK_SIZE), torch.randn(PEAK_SIZE, PEAK_SIZE)
    times = []
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        start = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - start)
    return 2 * PEAK_SIZE**3 / min(times) / 1e9


def measure(contenders: dict[str, Predict], images: np.ndarray, rounds: int) -> dict[str, dict[str, float]]:
    """Images/s from the median, and milliseconds, of one batch."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for predict in contenders.values():
        predict(images)
    for _ in range(rounds):
        for name, predict in contenders.items():
            start = time.perf_counter()
            predict(images)
            times[name].append(time.perf_counter() - start)
    return {
        name: {
            "images_per_s": round(len(images) / float(np.median(values)), 1),
            "median_ms": round(1e3 * float(np.median(values)), 2),
            "p99_ms": round(1e3 * float(np.percentile(values, 99)), 2),
        }
        for name, values in times.items()
    }


def draw(results: dict[int, dict[str, dict[str, float]]], path: Path) -> None:
    """Images/s over batch size, one line per contender."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5))
    axes = figure.subplots()
    for name in next(iter(results.values())):
        axes.plot(list(results), [row[name]["images_per_s"] for row in results.values()], marker="o", label=name)
    axes.set(xlabel="batch size", ylabel="images/s", xscale="log", title=processor_name())
    axes.set_xticks(list(results), labels=map(str, results))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, bbox_inches="tight", dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL)
    parser.add_argument("--checkpoint", type=Path, help="what the model came from: measure PyTorch and the plain export too")
    parser.add_argument("--compile", action="store_true", help="and torch.compile, which takes minutes")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    artifact, threads = load_artifact(args.model), available_cpus()
    contenders = {PLAIN: onnxruntime_predict(artifact.graph_path)}
    if args.checkpoint:
        contenders |= torch_contenders(args.checkpoint, args.compile)
    contenders |= engine_contenders(artifact, threads, max(args.batch_sizes))
    size = artifact.card.preprocess.size
    images = np.random.default_rng(0).integers(0, 256, (max(args.batch_sizes), *size, 3), dtype=np.uint8)
    peaks = [gemm_peak()]
    results = {}
    for batch_size in tqdm(args.batch_sizes, desc="batch sizes"):
        results[batch_size] = measure(contenders, images[:batch_size], args.rounds)
        peaks.append(gemm_peak())
    if args.plot:
        draw(results, args.plot)
    reference = max((size for size in args.batch_sizes if size <= 32), default=args.batch_sizes[0])
    rates = {name: entry["images_per_s"] for name, entry in results[reference].items()}
    best = max((name for name in rates if ":" in name), key=lambda name: rates[name])
    line = {
        "benchmark": "engines",
        "model": artifact.card.name,
        "batch_sizes": results,
        "best": best,
        "ratio_to_plain_onnxruntime": round(rates[best] / rates[PLAIN], 2),
        "ratio_at_batch": reference,
        "fp32_gemm_gflops": round(float(np.median(peaks))),
        "processor": processor_name(),
        "threads": threads,
        "versions": {name: version(name) for name in ("openvino", "onnxruntime")},
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
