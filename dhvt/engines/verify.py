"""Parity, repeated on the machine at hand: every engine and precision against what was exported, and against fp32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from dhvt.artifact import OPENVINO, Artifact, ModelCard
from dhvt.data.sources import ImageSource
from dhvt.engines.base import Engine
from dhvt.engines.registry import ENGINES, build_engine, find_precisions, try_in_child
from dhvt.engines.selftest import ATOL, golden_images
from dhvt.errors import EngineError, EngineUnavailable
from dhvt.evaluation.agreement import FP32, TOLERANCES, Comparison, Tolerance, compare, compare_logits
from dhvt.evaluation.metrics import collect_outputs

ODD_BATCH_SIZE = 7
REFERENCE = "onnxruntime:fp32"
FP32_AGREEMENT = 0.9999
"""Of whole data sets: two classes that are level to the fifth digit change places, in about one of 100,000 images."""

INT8_AGREEMENT_MARGIN = 0.01
INT8_ERROR_FACTOR = 2
"""How much further from float32 than at export int8 may be, on other images than those it was measured on."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was found of one candidate.

    Args:
        candidate: a runtime and a precision, or a runtime alone where it offers none.
        missing: why it does not run here, where its package, its hardware or its file is not there; that is no fault.
        fault: what is beyond the thresholds of its precision, or why it fails; None where it passes.
        golden: against the exported logits of the artifact's own images.
        images: against the reference on the labelled images; None without them.
        images_per_s: on these, with decoding.
    """

    candidate: str
    missing: str | None = None
    fault: str | None = None
    golden: Comparison | None = None
    images: Comparison | None = None
    images_per_s: float | None = None

    def describe(self) -> list[str]:
        """For people, a line each."""
        if self.missing is not None:
            return [f"not here: {self.missing}"]
        lines = []
        if self.golden is not None:
            sizes = ", ".join(map(str, self.golden.batch_sizes))
            lines.append(f"the model's own images, batches of {sizes}: {_figures(self.golden)}")
        if self.images is not None:
            lines.append(
                f"{self.images.images} images, batches of {self.images.batch_sizes[0]}, beside fp32: "
                f"{_figures(self.images)}, top-1 {self.images.top1:.2f} % (fp32 {self.images.top1_reference:.2f} %), "
                f"{self.images_per_s:.0f} images/s with decoding"
            )
        return [*lines, "passes" if self.fault is None else f"FAILS: {self.fault}"]


def verify_engines(
    artifact: Artifact,
    source: ImageSource | None = None,
    *,
    threads: int,
    max_batch_size: int,
    on_error: Callable[[str], None] | None = None,
) -> Iterator[Verification]:
    """Each engine in each precision, the reference first: ONNX Runtime's fp32, or else the first in fp32 that passes.

    The reference of the artifact's own images are PyTorch's logits, for int8 the quantized graph's, at batch 1, an odd
    one and the largest. Labelled images are run in the largest batch, and compared with the engine in fp32.

    Args:
        source: labelled images, where accuracy is to be measured and agreement compared on real ones.
        threads, max_batch_size: what the server would use.
        on_error: see :func:`dhvt.evaluation.metrics.collect_outputs`.

    Raises:
        DataError: an image cannot be read and there is no ``on_error``.
    """
    candidates: list[str] = []
    for name in ENGINES:
        try:
            candidates += [f"{name}:{precision}" for precision in find_precisions(artifact, name)]
        except EngineUnavailable as error:
            yield Verification(candidate=name, missing=str(error))
        except EngineError as error:
            yield Verification(candidate=name, fault=str(error))
    reference: NDArray[np.float32] | None = None
    for candidate in sorted(candidates, key=lambda name: (name != REFERENCE, not name.endswith(":fp32"))):
        try:
            try_in_child(artifact, candidate, threads, max_batch_size, anew=True)
            engine = build_engine(artifact, candidate, threads=threads, max_batch_size=max_batch_size)
            golden = _compare_golden(engine, artifact, max_batch_size)
            # Four images make no share: their logit errors judge alone.
            fault = Tolerance(atol=ATOL[engine.precision], top1_agreement=0).fault(golden)
            if source is None:
                yield Verification(candidate=candidate, fault=fault, golden=golden)
                continue
            start = perf_counter()
            preprocess = artifact.card.preprocess
            outputs = collect_outputs(engine.predict, source, preprocess, batch_size=max_batch_size, on_error=on_error)
            rate = len(outputs.labels) / (perf_counter() - start)
        except EngineUnavailable as error:
            yield Verification(candidate=candidate, missing=str(error))
            continue
        except EngineError as error:
            yield Verification(candidate=candidate, fault=str(error))
            continue
        if reference is None and engine.precision == "fp32" and fault is None:
            reference = outputs.logits
        images = None
        if reference is None:
            fault = fault or "no engine in fp32 passes here to compare its answers with"
        else:
            images = compare_logits(candidate, reference, outputs.logits, (max_batch_size,), outputs.labels)
            allowed = tolerance(artifact.card, engine.precision).on_sample(images.images)
            fault = fault or allowed.fault(images)
        yield Verification(candidate=candidate, fault=fault, golden=golden, images=images, images_per_s=rate)


def _compare_golden(engine: Engine, artifact: Artifact, largest: int) -> Comparison:
    images, expected = golden_images(artifact, engine.precision)
    sizes = (1, min(ODD_BATCH_SIZE, largest), largest)
    return compare(engine.name, expected, engine.predict, images, batch_sizes=sizes)


def _figures(found: Comparison) -> str:
    return (
        f"logits off by at most {found.max_abs_error:.2g}, on average {found.mean_abs_error:.2g}, "
        f"same top-1 for {found.top1_agreement:.2%}"
    )


def tolerance(card: ModelCard, precision: str) -> Tolerance:
    """How far the precision may be from fp32 on many images."""
    if precision == "fp32":
        return replace(FP32, top1_agreement=FP32_AGREEMENT)
    quantized = card.find_variant(format=OPENVINO, precision=precision)
    if quantized is None:
        return TOLERANCES[precision]
    measured = quantized.parity["comparisons"][0]
    return Tolerance(
        atol=INT8_ERROR_FACTOR * measured["max_abs_error"],
        top1_agreement=measured["top1_agreement"] - INT8_AGREEMENT_MARGIN,
    )
