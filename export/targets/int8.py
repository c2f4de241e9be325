"""int8 for processors that multiply it faster: NNCF's post-training quantization, kept only where it pays."""

from __future__ import annotations

import logging
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from dhvt.artifact import INT8_NAMES
from dhvt.data.batches import Predict
from dhvt.engines.chunks import run_in_chunks
from dhvt.errors import ExportError
from dhvt.evaluation.agreement import Comparison, compare_logits

CALIBRATION_IMAGES = 1000
CHECK_IMAGES = 5000
LARGEST_LOSS = 0.2
"""Percentage points of top-1 that quantization may cost; of few images it may cost one."""

LEAST_SPEEDUP = 1.1
SMALLEST_WEIGHT = 192 * 192
"""A product with a smaller weight matrix gains less than converting its operands costs."""

BETWEEN_PRODUCTS = ["Add", "Multiply", "ReduceMean", "MVN", "GroupConvolution"]
"""What a transformer's graph has between its products. In int8 it would be no faster, because OpenVINO's LayerNorm and
depth-wise convolution compute in float32; and left so, the logits are off by a quarter as much."""

COMPARED_BATCH_SIZE = 64
TIMED_BATCH_SIZE = 32
TIMED_ROUNDS = 11


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """What was measured of the quantized graph, in OpenVINO on the exporting machine.

    Args:
        calibration_images: images that the ranges were taken from.
        comparison: with float32, on labelled images.
        speedup: its images/s over fp32's, batches of 32, both on all threads.
    """

    calibration_images: int
    comparison: Comparison
    speedup: float

    def to_parity(self) -> dict[str, Any]:
        """Plain values, for ``model.json``."""
        return {
            "images": "real",
            "comparisons": [self.comparison.to_dict()],
            "calibration_images": self.calibration_images,
            "speedup": self.speedup,
        }


def quantize(graph: Path, calibration: NDArray[np.uint8], out: Path) -> None:
    """Writes ``model.int8.xml`` and ``.bin`` into ``out``.

    In a process of its own, because importing NNCF changes PyTorch's functions for the whole process.

    Args:
        graph: ``model.onnx``.
        calibration: preprocessed images ``(N, H, W, 3)`` uint8, of the kind that is going to be served.

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
    names, types = _left_in_float32(model)
    with redirect_stdout(sys.stderr):  # where progress belongs
        quantized = nncf.quantize(
            model,
            nncf.Dataset(calibration[:, None]),
            subset_size=len(calibration),
            ignored_scope=nncf.IgnoredScope(names=names, types=types),
        )
    openvino.save_model(quantized, out / INT8_NAMES[0], compress_to_fp16=False)


def _left_in_float32(model: openvino.Model) -> tuple[list[str], list[str]]:
    """What is not quantized: by name the head tokens' and squeeze-excitations' products, by type :data:`BETWEEN_PRODUCTS`."""
    names, types = [], set()
    for node in model.get_ops():
        types.add(node.get_type_name())
        if node.get_type_name() == "MatMul":
            weights = [entry.get_node() for entry in node.input_values() if _is_constant(entry.get_node())]
            if weights and np.prod(weights[0].get_output_shape(0)) < SMALLEST_WEIGHT:
                names.append(node.get_friendly_name())
    is_transformer = "MVN" in types  # OpenVINO's name for LayerNorm
    return names, [name for name in BETWEEN_PRODUCTS if name in types] if is_transformer else []


def _is_constant(node: openvino.Node) -> bool:
    while node.get_type_name() in ("Convert", "Transpose", "Reshape"):
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Constant")


def compare_quantized(
    int8: Predict, fp32: Predict, images: NDArray[np.uint8], labels: NDArray[np.int64], calibration_images: int
) -> Quantization:
    """Accuracy and speed of the quantized graph beside those of the one in float32."""
    expected, got = (run_in_chunks(predict, images, 1, COMPARED_BATCH_SIZE) for predict in (fp32, int8))
    return Quantization(
        calibration_images=calibration_images,
        comparison=compare_logits("openvino", expected, got, (COMPARED_BATCH_SIZE,), labels),
        speedup=_speedup(fp32, int8, np.resize(images, (TIMED_BATCH_SIZE, *images.shape[1:]))),
    )


def _speedup(before: Predict, after: Predict, batch: NDArray[np.uint8]) -> float:
    seconds: dict[Predict, list[float]] = {before: [], after: []}
    for _ in range(TIMED_ROUNDS):
        for predict, times in seconds.items():
            start = time.perf_counter()
            predict(batch)
            times.append(time.perf_counter() - start)
    return median(seconds[before]) / median(seconds[after])


def reason_to_drop(result: Quantization) -> str | None:
    """Why the quantized graph is not worth keeping, or None."""
    compared = result.comparison
    assert compared.top1 is not None
    assert compared.top1_reference is not None
    lost, allowed = compared.top1_reference - compared.top1, max(LARGEST_LOSS, 100.001 / compared.images)
    if not lost <= allowed:
        return f"int8 costs {lost:.2f} points of top-1 on {compared.images} images (at most {allowed:.2f})"
    if not result.speedup >= LEAST_SPEEDUP:
        return f"int8 is {result.speedup:.2f} times as fast as fp32 on this processor (at least {LEAST_SPEEDUP})"
    return None
