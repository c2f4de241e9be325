"""int8 for processors that multiply it faster: NNCF's post-training quantization, kept only where it pays."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from dhvt.artifact import INT8_NAMES
from dhvt.errors import ExportError
from export.parity import Predict

CALIBRATION_IMAGES = 1000
CHECK_IMAGES = 5000
LARGEST_LOSS = 0.2
"""Percentage points of top-1 that quantization may cost."""

LEAST_SPEEDUP = 1.1
SMALLEST_WEIGHT = 192 * 192
"""A product with a smaller weight matrix gains less than converting its operands costs."""

BETWEEN_PRODUCTS = ["Add", "Multiply", "ReduceMean", "MVN", "GroupConvolution"]
"""What a transformer's graph has between its products. In int8 it would be no faster, because OpenVINO's LayerNorm and
depth-wise convolution compute in float32; and left so, the logits are off by a quarter as much."""

PART = 4
"""Pictures that the server's engine computes in one piece."""

TIMED_BATCH_SIZE = 32
TIMED_ROUNDS = 11


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """What was measured of the quantized graph, in OpenVINO on the exporting machine.

    Args:
        calibration_images: pictures that the ranges were taken from.
        images: labelled pictures that it was compared on.
        top1, top1_fp32: accuracy on these, in percent.
        top1_agreement: part of these, of 1, with the same most likely class.
        max_abs_error, mean_abs_error: of the logits.
        speedup: its images/s over fp32's, batches of 32, both on all threads.
    """

    calibration_images: int
    images: int
    top1: float
    top1_fp32: float
    top1_agreement: float
    max_abs_error: float
    mean_abs_error: float
    speedup: float

    def to_dict(self) -> dict[str, object]:
        """Plain values, for ``model.json``."""
        return asdict(self)


def quantize(graph: Path, calibration: NDArray[np.uint8], out: Path) -> None:
    """Writes ``model.int8.xml`` and ``.bin`` into ``out``.

    In a process of its own, because importing NNCF changes PyTorch's functions for the whole process.

    Args:
        graph: ``model.onnx``.
        calibration: preprocessed pictures ``(N, H, W, 3)`` uint8, of the kind that is going to be served.

    Raises:
        ExportError: NNCF is not installed, or its process died.
    """
    if find_spec("nncf") is None:
        raise ExportError("--int8 needs NNCF; pip install nncf")
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            pool.submit(_quantize, graph, calibration, out).result()
    except BrokenProcessPool as error:
        raise ExportError(f"NNCF's process died while it quantized {graph}") from error


def _quantize(graph: Path, calibration: NDArray[np.uint8], out: Path) -> None:
    import nncf

    nncf.set_log_level(logging.ERROR)
    model = openvino.Core().read_model(graph)
    quantized = nncf.quantize(
        model,
        nncf.Dataset(calibration[:, None]),
        subset_size=len(calibration),
        ignored_scope=_left_in_float32(model),
    )
    openvino.save_model(quantized, out / INT8_NAMES[0], compress_to_fp16=False)


def _left_in_float32(model: openvino.Model) -> Any:
    """NNCF's ``IgnoredScope``: the head tokens' and squeeze-excitations' products, and what is between a transformer's."""
    import nncf

    names, types = [], set()
    for node in model.get_ops():
        types.add(node.get_type_name())
        if node.get_type_name() == "MatMul":
            weights = [entry.get_node() for entry in node.input_values() if _is_constant(entry.get_node())]
            if weights and np.prod(weights[0].get_output_shape(0)) < SMALLEST_WEIGHT:
                names.append(node.get_friendly_name())
    between = [name for name in BETWEEN_PRODUCTS if name in types] if "MVN" in types else []
    return nncf.IgnoredScope(names=names, types=between)


def _is_constant(node: openvino.Node) -> bool:
    while node.get_type_name() in ("Convert", "Transpose", "Reshape"):
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Constant")


def compare_quantized(
    folder: Path, graph: Path, images: NDArray[np.uint8], labels: NDArray[np.int64], calibration_images: int
) -> Quantization:
    """Accuracy and speed of the quantized graph in ``folder`` beside those of ``graph``."""
    fp32, int8 = _predict_in_parts(graph), _predict_in_parts(folder / INT8_NAMES[0])
    expected, got = fp32(images), int8(images)
    error = np.abs(expected - got)
    return Quantization(
        calibration_images=calibration_images,
        images=len(images),
        top1=100 * float((got.argmax(1) == labels).mean()),
        top1_fp32=100 * float((expected.argmax(1) == labels).mean()),
        top1_agreement=float((got.argmax(1) == expected.argmax(1)).mean()),
        max_abs_error=float(error.max()),
        mean_abs_error=float(error.mean()),
        speedup=_speedup(fp32, int8, np.resize(images, (TIMED_BATCH_SIZE, *images.shape[1:]))),
    )


def _predict_in_parts(graph: Path) -> Predict:
    """As the server's engine does it: a graph for a fixed batch size, on all threads at once.

    OpenVINO rounds a quantized graph for any batch size in other places: logits differ by up to 0.1.
    """
    core = openvino.Core()
    model = core.read_model(graph)
    model.reshape([PART, *list(model.input().partial_shape)[1:]])
    options = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32"}
    queue = openvino.AsyncInferQueue(core.compile_model(model, "CPU", options))

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        parts: dict[int, NDArray[np.float32]] = {}
        queue.set_callback(lambda request, start: parts.update({start: request.get_output_tensor().data.copy()}))
        for start in range(0, len(images), PART):
            part = images[start : start + PART]
            queue.start_async([np.resize(part, (PART, *part.shape[1:]))], start)  # the last is filled up
        queue.wait_all()
        return np.concatenate([parts[start] for start in sorted(parts)])[: len(images)]

    return predict


def _speedup(before: Predict, after: Predict, batch: NDArray[np.uint8]) -> float:
    seconds: dict[Predict, list[float]] = {before: [], after: []}
    for _ in range(TIMED_ROUNDS):
        for predict, times in seconds.items():
            start = time.perf_counter()
            predict(batch)
            times.append(time.perf_counter() - start)
    return median(seconds[before]) / median(seconds[after])


def int8_logits(folder: Path, golden: NDArray[np.uint8]) -> list[list[float]]:
    """What the quantized graph gives for the golden pictures, for the self-test."""
    logits: list[list[float]] = _predict_in_parts(folder / INT8_NAMES[0])(golden).tolist()
    return logits


def reason_to_drop(result: Quantization) -> str | None:
    """Why the quantized graph is not worth keeping, or None."""
    lost = result.top1_fp32 - result.top1
    if not lost <= LARGEST_LOSS:
        return f"int8 costs {lost:.2f} points of top-1 on {result.images} pictures (at most {LARGEST_LOSS})"
    if not result.speedup >= LEAST_SPEEDUP:
        return f"int8 is {result.speedup:.2f} times as fast as fp32 on this processor (at least {LEAST_SPEEDUP})"
    return None
