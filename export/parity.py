"""Whether an exported model says what PyTorch says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dhvt.artifact import INPUT_NAME, OUTPUT_NAME
from dhvt.errors import ParityError

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

BATCH_SIZES = (1, 2, 7, 64)
"""One, the batch it was traced with, an odd one and a large one."""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """What still counts as equal.

    Args:
        atol: largest absolute difference of a logit.
        top1_agreement: smallest part of the images, of 1, with the same most likely class.
    """

    atol: float
    top1_agreement: float


FP32 = Tolerance(atol=1e-3, top1_agreement=1.0)
TOLERANCES = {
    "fp32": FP32,
    "fp16": Tolerance(atol=0.1, top1_agreement=0.999),
    "bf16": Tolerance(atol=0.5, top1_agreement=0.99),
}
"""By precision of the graph. fp16 has 11 bits of mantissa, bf16 8; logits reach about 10."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One runtime against PyTorch, over all batch sizes."""

    runtime: str
    images: int
    batch_sizes: tuple[int, ...]
    max_abs_error: float
    mean_abs_error: float
    top1_agreement: float

    def to_dict(self) -> dict[str, object]:
        """Plain values, for ``model.json``."""
        return asdict(self)


def compare_outputs(
    runtime: str, reference: Predict, candidate: Predict, images: NDArray[np.uint8], tolerance: Tolerance
) -> Comparison:
    """Runs both on ``images`` (``(N, H, W, 3)`` uint8): all of them in the largest batch size, some in the others.

    Raises:
        ParityError: they differ by more than ``tolerance``.
    """
    errors: list[NDArray[np.float32]] = []
    agree: list[NDArray[np.bool_]] = []
    for batch_size in BATCH_SIZES:
        count = len(images) if batch_size == max(BATCH_SIZES) else min(len(images), 2 * batch_size)
        for start in range(0, count, batch_size):
            batch = images[start : start + batch_size]
            expected, got = reference(batch), candidate(batch)
            if got.shape != expected.shape:
                raise ParityError(f"{runtime} gives {got.shape} for a batch of {len(batch)}, PyTorch {expected.shape}")
            errors.append(np.abs(expected - got).ravel())
            agree.append(expected.argmax(1) == got.argmax(1))
    error, agreement = np.concatenate(errors), float(np.concatenate(agree).mean())
    comparison = Comparison(
        runtime=runtime,
        images=len(images),
        batch_sizes=BATCH_SIZES,
        max_abs_error=float(error.max()),
        mean_abs_error=float(error.mean()),
        top1_agreement=agreement,
    )
    # Written so that a NaN fails.
    if not (comparison.max_abs_error <= tolerance.atol and agreement >= tolerance.top1_agreement):
        raise ParityError(
            f"{runtime} disagrees with PyTorch: largest logit error {comparison.max_abs_error:.2g} "
            f"(at most {tolerance.atol:g}), same top-1 for {agreement:.2%} (at least {tolerance.top1_agreement:.2%}); "
            "nothing was written"
        )
    return comparison


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
