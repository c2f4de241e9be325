"""Post-training quantization of a graph to int8, by NNCF, as OpenVINO's IR."""

from __future__ import annotations

import logging
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhvt.artifact import INT8_NAMES
from dhvt.errors import ExportError

SMALLEST_WEIGHT = 192 * 192
"""A product with a smaller weight matrix gains less than converting its operands costs."""

BETWEEN_PRODUCTS = ["Add", "Multiply", "ReduceMean", "MVN", "GroupConvolution"]
"""What a transformer's graph has between its products. In int8 it would be no faster, because OpenVINO's LayerNorm and
depth-wise convolution compute in float32; and left so, the logits are off by a quarter as much."""


def quantize(graph: Path, calibration: NDArray[np.uint8], out: Path) -> None:
    """Writes ``model.int8.xml`` and ``.bin`` into ``out``.

    In a process of its own, because importing NNCF changes PyTorch's functions for the whole process.

    Args:
        graph: ``model.onnx``.
        calibration: preprocessed images ``(N, H, W, 3)`` uint8, of the kind that is going to be served.

    Raises:
        ExportError: NNCF or OpenVINO failed, or the process died.
    """
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            pool.submit(_quantize, graph, calibration, out).result()
    except BrokenProcessPool as error:
        raise ExportError(f"NNCF's process died while it quantized {graph}") from error


def _quantize(graph: Path, calibration: NDArray[np.uint8], out: Path) -> None:
    """The process. It raises no error of NNCF's: the caller, which has no NNCF, could not read that."""
    try:
        _quantize_here(graph, calibration, out)
    except Exception as error:
        raise ExportError(f"{graph} cannot be quantized to int8: {type(error).__name__}: {error}") from None


def _quantize_here(graph: Path, calibration: NDArray[np.uint8], out: Path) -> None:
    import nncf
    import openvino

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


def _left_in_float32(model: Any) -> tuple[list[str], list[str]]:
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


def _is_constant(node: Any) -> bool:
    while node.get_type_name() in ("Convert", "Transpose", "Reshape"):
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Constant")
