"""Images/s and latency of every engine that runs here, beside PyTorch, over batch sizes.

    python benchmarks/engines.py --model runs/mine/artifact --checkpoint runs/mine/ckpt.pt --plot engines.png

The contenders take turns, call by call; figures are medians and 99th percentiles. ``plain onnxruntime`` is ONNX Runtime
with its defaults: on the model exported as it is written where ``--checkpoint`` is given, else on the artifact's graph.
With ``--checkpoint`` the model's largest product is run alone, as one matrix product in OpenVINO, between the batch sizes,
in each precision that an engine has on the processor: its GFLOP/s are the limit, of which each gets a fraction. With
``--data``, accuracy is measured too. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
from onnx import TensorProto, helper, numpy_helper
from tqdm import tqdm

from dhvt.artifact import INT8_NAMES, Artifact, load_artifact
from dhvt.data.fingerprint import fingerprint
from dhvt.data.record import require_unseen
from dhvt.data.splits import open_test_data
from dhvt.engines import all_candidates, open_engine
from dhvt.engines.settings import BUNDLED_MODEL
from dhvt.errors import EngineError
from dhvt.evaluation.agreement import top1
from dhvt.hardware.cpus import available_cpus, processor_name
from export.graph import export_graph
from export.images import sample
from export.parity import onnxruntime_predict
from export.quantize import quantize
from export.settings import OPSET_VERSION
from timing import Predict, measure

GEMM_IMAGES = 32
ON_PROCESSOR = ("plain", "torch", "openvino", "onnxruntime:")
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

    from dhvt.model.checkpoint import load_checkpoint
    from dhvt.model.inference import InferenceModel, torch_predict

    class Plain(InferenceModel):
        """As written: the last block computes every token, and the head reads one."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.model.forward_head(self.model.forward_features(self.normalize(images)))

    loaded = load_checkpoint(checkpoint)
    network, preprocess = loaded.build_model(), loaded.build_preprocess()
    with tempfile.TemporaryDirectory() as folder:
        export_graph(Plain(network, preprocess).eval(), preprocess, Path(folder) / "plain.onnx", OPSET_VERSION)
        found = {PLAIN: onnxruntime_predict(Path(folder) / "plain.onnx")}
    model = InferenceModel(network, preprocess).eval()
    found["torch eager"] = torch_predict(model)
    if compiled:
        found["torch.compile"] = torch_predict(torch.compile(model, dynamic=False))
    return found


def largest_product(checkpoint: Path) -> tuple[tuple[int, int, int], float]:
    """The linear layer or 1×1 convolution with the most work, as rows, inputs and outputs for :data:`GEMM_IMAGES` images;
    and the GFLOP of the whole network for one, an addition and a multiplication counting as two."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from dhvt.model.checkpoint import load_checkpoint
    from dhvt.model.inference import InferenceModel

    loaded = load_checkpoint(checkpoint)
    preprocess = loaded.build_preprocess()
    model = InferenceModel(loaded.build_model(), preprocess).eval()
    found = [(0, 0, 0)]

    def note(layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        channels = 1 if isinstance(layer, torch.nn.Conv2d) else -1
        rows = output.numel() // output.shape[channels]
        found.append((rows * GEMM_IMAGES, inputs[0].shape[channels], output.shape[channels]))

    for layer in model.modules():
        is_product = isinstance(layer, torch.nn.Linear) or (
            isinstance(layer, torch.nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1
        )
        if is_product:
            layer.register_forward_hook(note)
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        model(torch.zeros(1, *preprocess.size, 3, dtype=torch.uint8))
    return max(found, key=np.prod), counter.get_total_flops() / 1e9


class Gemm:
    """One matrix product in OpenVINO, on all threads, with a constant second factor as in a linear layer.

    In int8 it is quantized as the model is, by NNCF; the conversion of its operand is part of it.
    """

    def __init__(self, shape: tuple[int, int, int], precision: str, threads: int) -> None:
        rows, inputs, outputs = shape
        rng = np.random.default_rng(0)
        self._gflop = 2 * rows * inputs * outputs / 1e9
        self._operand = rng.standard_normal((1, rows, inputs), dtype=np.float32)
        factor = numpy_helper.from_array(rng.standard_normal((inputs, outputs), dtype=np.float32), "factor")
        values = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, rows, columns])
            for name, columns in (("operand", inputs), ("product", outputs))
        ]
        node = helper.make_node("MatMul", ["operand", "factor"], ["product"])
        graph = helper.make_graph([node], "gemm", values[:1], values[1:], [factor])
        core, hint = openvino.Core(), {"bf16": "bf16"}.get(precision, "f32")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "gemm.onnx"
            onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET_VERSION)]), path)
            if precision == "int8":
                quantize(path, self._operand, Path(folder))
                path = Path(folder) / INT8_NAMES[0]
            options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
            self._request = core.compile_model(path, "CPU", options).create_infer_request()

    def gflops(self, seconds: float = 0.5) -> float:
        """GFLOP/s of its quickest run."""
        times = []
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            start = time.perf_counter()
            self._request.infer([self._operand], share_inputs=True)
            times.append(time.perf_counter() - start)
        return self._gflop / min(times)


def measure_top1(contenders: dict[str, Predict], artifact: Artifact, data: str, count: int) -> dict[str, float]:
    """Accuracy in percent on up to ``count`` labelled images."""
    source = open_test_data(data, classes=artifact.card.classes).source
    require_unseen(fingerprint(source), artifact.card.data)
    batch = sample(source, artifact.card.preprocess, count)
    found = {}
    for name, predict in contenders.items():
        parts = [predict(batch.images[start : start + 32]) for start in range(0, len(batch.images), 32)]
        found[name] = round(top1(np.concatenate(parts), batch.labels), 2)
    return found


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
    parser.add_argument("--data", help="labelled images, laid out as for dhvt train: measure accuracy too")
    parser.add_argument("--images", type=int, default=1000, help="of these, at most")
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
    gemms: dict[str, Gemm] = {}
    if args.checkpoint:
        shape, gflop = largest_product(args.checkpoint)
        precisions = {name.partition(":")[2] for name in contenders if name.startswith("openvino:")}
        gemms = {precision: Gemm(shape, precision, threads) for precision in sorted(precisions | {"fp32"})}
    peaks: dict[str, list[float]] = {precision: [] for precision in gemms}
    results = {}
    for batch_size in tqdm(args.batch_sizes, desc="batch sizes"):
        results[batch_size] = measure(contenders, images[:batch_size], args.rounds)
        for precision, gemm in gemms.items():
            peaks[precision].append(gemm.gflops())
    if args.plot:
        draw(results, args.plot)
    reference = max((size for size in args.batch_sizes if size <= 32), default=args.batch_sizes[0])
    rates = {name: entry["images_per_s"] for name, entry in results[reference].items()}
    best = max((name for name in rates if ":" in name), key=lambda name: rates[name])
    line: dict[str, Any] = {
        "benchmark": "engines",
        "model": artifact.card.name,
        "batch_sizes": results,
        "best": best,
        "ratio_to_plain_onnxruntime": round(rates[best] / rates[PLAIN], 2),
        "ratio_at_batch": reference,
        "processor": processor_name(),
        "threads": threads,
        "versions": {name: version(name) for name in ("openvino", "onnxruntime")},
    }
    if gemms:
        limits = {precision: float(np.median(values)) for precision, values in peaks.items()}
        line["gemm"] = {"library": "openvino", "rows_inputs_outputs": shape}
        line["gemm_gflops"] = {precision: round(limit) for precision, limit in limits.items()}
        line["gflop_per_image"] = round(gflop, 3)
        line["fraction_of_gemm"] = {
            name: round(rate * gflop / limits[name.partition(":")[2] or "fp32"], 3)
            for name, rate in rates.items()
            if name.startswith(ON_PROCESSOR)
        }
    if args.data:
        line["top1_percent"] = measure_top1(contenders, artifact, args.data, args.images)
    print(json.dumps(line))


if __name__ == "__main__":
    main()
