"""Comparison of an exported model's outputs with PyTorch's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhvt.artifact import INPUT_NAME, OUTPUT_NAME
from dhvt.data.batches import Predict
from dhvt.engines.chunks import run_in_chunks
from dhvt.errors import ParityError
from dhvt.evaluation.agreement import Comparison, Tolerance, compare

BATCH_SIZES = (1, 2, 7, 64)
"""One, the batch it was traced with, an odd one and a large one."""


def compare_outputs(
    runtime: str,
    reference: Predict,
    candidate: Predict,
    images: NDArray[np.uint8],
    tolerance: Tolerance,
    *,
    labels: NDArray[np.int64] | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> Comparison:
    """Runs both on ``images`` (``(N, H, W, 3)`` uint8): all of them in the largest batch size, some in the others.

    Args:
        labels: ``(N,)``, the right answers, where accuracy is to be measured too.

    Raises:
        ParityError: they differ by more than ``tolerance``.
    """
    expected = run_in_chunks(reference, images, 1, max(BATCH_SIZES))
    comparison = compare(runtime, expected, candidate, images, batch_sizes=batch_sizes, labels=labels)
    fault = tolerance.on_sample(len(images)).fault(comparison)
    if fault is not None:
        raise ParityError(f"{runtime} disagrees with PyTorch: {fault}; nothing was written")
    return comparison


def describe(parity: Mapping[str, Any], images: str = "images") -> str:
    """One line about a comparison as ``model.json`` has it."""
    text = (
        f"largest logit error {parity['max_abs_error']:.2g}, same top-1 for {parity['top1_agreement']:.1%} "
        f"of {parity['images']} {images}"
    )
    if parity.get("top1") is None:
        return text
    return f"{text}, top-1 {parity['top1']:.2f} % (PyTorch {parity['top1_reference']:.2f} %)"


def onnxruntime_predict(graph: Path) -> Predict:
    """The graph in ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = session.run([OUTPUT_NAME], {INPUT_NAME: images})[0]
        return logits

    return predict


def openvino_predict(graph: Path) -> Predict:
    """The graph in OpenVINO on the CPU, in float32 so that only the conversion is compared."""
    import openvino

    model = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = model([images])[OUTPUT_NAME]
        return logits

    return predict


RUNTIMES: dict[str, Callable[[Path], Predict]] = {"onnxruntime": onnxruntime_predict, "openvino": openvino_predict}


def installed_runtimes() -> dict[str, Callable[[Path], Predict]]:
    """Those of :data:`RUNTIMES` that are installed."""
    return {name: load for name, load in RUNTIMES.items() if find_spec(name) is not None}


def installed_versions(*packages: str) -> dict[str, str]:
    """Versions of the packages, named as pip names them; without those that are not installed."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
