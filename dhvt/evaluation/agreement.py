"""Agreement of a runtime's logits with a reference's, and the tolerances by precision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dhvt.data.batches import Predict
from dhvt.errors import ParityError

_TIE = 1e-5  # of logits that reach about 10, which float32 in another order changes by 3e-6


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """The largest difference that still counts as agreement.

    Args:
        atol: largest absolute difference of a logit.
        top1_agreement: smallest share of the images, 0 to 1, with the same most likely class.
        mean_error: largest mean absolute difference. The largest one grows with the number of images; the mean does not.
    """

    atol: float = math.inf
    top1_agreement: float
    mean_error: float = math.inf

    def to_dict(self) -> dict[str, float]:
        """Plain values, for JSON, which has no infinity: without what is not limited."""
        return {name: value for name, value in asdict(self).items() if value < math.inf}

    def on_sample(self, images: int) -> Tolerance:
        """The tolerance for a share that is measured on so many images: less by three of its standard deviations."""
        scatter = 3 * math.sqrt(self.top1_agreement * (1 - self.top1_agreement) / images)
        return replace(self, top1_agreement=self.top1_agreement - scatter)

    def fault(self, comparison: Comparison) -> str | None:
        """The figures that exceed the tolerance, in words; None where none does."""
        # Written so that a NaN is a fault.
        if (
            comparison.max_abs_error <= self.atol
            and comparison.mean_abs_error <= self.mean_error
            and comparison.top1_agreement >= self.top1_agreement
        ):
            return None
        errors = [
            f"{kind} logit error {error:.2g} (at most {limit:.3g})"
            for kind, error, limit in (
                ("largest", comparison.max_abs_error, self.atol),
                ("mean", comparison.mean_abs_error, self.mean_error),
            )
            if limit < math.inf
        ]
        agreement = f"same top-1 for {comparison.top1_agreement:.2%} (at least {self.top1_agreement:.2%})"
        return ", ".join([*errors, agreement])


FP32 = Tolerance(atol=1e-3, top1_agreement=1.0)
TOLERANCES = {
    "fp32": FP32,
    "fp16": Tolerance(atol=0.1, top1_agreement=0.999),
    "bf16": Tolerance(atol=0.5, top1_agreement=0.99),
}
"""By precision of the graph. fp16 has 11 bits of mantissa, bf16 8; logits reach about 10. int8 has none of its own: how
far a quantized graph is from float32 depends on the model, and is measured at export."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A runtime's logits compared with a reference's.

    Args:
        runtime: its name.
        images: number of different images.
        batch_sizes: the sizes of the batches in which they were run.
        max_abs_error, mean_abs_error: of the logits.
        top1_agreement: share of the images, 0 to 1, with the same most likely class.
        top1, top1_reference: accuracy in percent of the runtime and of the reference, None where there are no labels.
    """

    runtime: str
    images: int
    batch_sizes: tuple[int, ...]
    max_abs_error: float
    mean_abs_error: float
    top1_agreement: float
    top1: float | None = None
    top1_reference: float | None = None

    def to_dict(self) -> dict[str, object]:
        """Plain values, for ``model.json``."""
        return asdict(self)


def compare(
    runtime: str,
    expected: NDArray[np.float32],
    predict: Predict,
    images: NDArray[np.uint8],
    *,
    batch_sizes: Sequence[int],
    labels: NDArray[np.int64] | None = None,
) -> Comparison:
    """Runs a runtime over all images in batches of the largest size, and over some in the other sizes.

    Args:
        expected: the reference's logits, ``(N, classes)``.
        images: ``(N, H, W, 3)`` uint8; fewer than a batch are repeated, so that each size is run in full.
        labels: ``(N,)``, the right classes, where they are known.

    Raises:
        ParityError: the logits have another shape.
    """
    sizes = tuple(sorted(set(batch_sizes)))
    expected_rows: list[NDArray[np.float32]] = []
    got_rows: list[NDArray[np.float32]] = []
    for size in sizes:
        count = len(images) if size == sizes[-1] else min(len(images), 2 * size)
        rows = np.arange(max(count, size)) % len(images)
        got = np.concatenate([predict(images[rows[start : start + size]]) for start in range(0, len(rows), size)])
        expected_rows.append(expected[rows])
        got_rows.append(got)
        if got.shape != expected_rows[-1].shape:
            raise ParityError(f"{runtime} gives logits of {got.shape} in batches of {size}, expected {expected_rows[-1].shape}")
    over_all = compare_logits(runtime, np.concatenate(expected_rows), np.concatenate(got_rows), sizes)
    return replace(
        over_all,
        images=len(images),
        top1_agreement=agreement(expected, got[: len(images)]),  # each image once, whatever batches it was in
        top1=None if labels is None else top1(got[: len(images)], labels),
        top1_reference=None if labels is None else top1(expected, labels),
    )


def compare_logits(
    runtime: str,
    expected: NDArray[np.float32],
    got: NDArray[np.float32],
    batch_sizes: tuple[int, ...],
    labels: NDArray[np.int64] | None = None,
) -> Comparison:
    """The comparison of logits that were computed already, ``(N, classes)`` each."""
    error = np.abs(expected - got)
    return Comparison(
        runtime=runtime,
        images=len(expected),
        batch_sizes=batch_sizes,
        max_abs_error=float(error.max()),
        mean_abs_error=float(error.mean()),
        top1_agreement=agreement(expected, got),
        top1=None if labels is None else top1(got, labels),
        top1_reference=None if labels is None else top1(expected, labels),
    )


def agreement(expected: NDArray[np.float32], got: NDArray[np.float32]) -> float:
    """Share of the images, 0 to 1, with the same most likely class; of two within :data:`_TIE`, either counts."""
    chosen = np.take_along_axis(expected, got.argmax(1)[:, None], axis=1)[:, 0]
    return float((chosen >= expected.max(1) - _TIE).mean())


def top1(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Accuracy in percent."""
    return 100 * float((logits.argmax(1) == labels).mean())
