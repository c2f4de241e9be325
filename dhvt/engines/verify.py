"""Parity, measured again on this machine: every engine and precision against the exported logits, and against fp32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from dhvt.artifact import OPENVINO, Artifact, ModelCard
from dhvt.confidence.reference import load_reference
from dhvt.data.sources import ImageSource
from dhvt.engines.base import Engine, EngineOptions
from dhvt.engines.probe import probe, recall_compiled
from dhvt.engines.registry import ENGINES, build_engine, find_precisions
from dhvt.engines.selftest import ATOL, golden_images
from dhvt.engines.speed import Speed
from dhvt.errors import EngineError, EngineUnavailable
from dhvt.evaluation.agreement import FP32, TOLERANCES, Comparison, Tolerance, compare, compare_logits
from dhvt.evaluation.metrics import Outputs, collect_outputs
from dhvt.evaluation.promises import ONLY_REFERENCE, Promises, check_promises, leave_out_reference

ODD_BATCH_SIZE = 7
REFERENCE = "onnxruntime:fp32"
FP32_AGREEMENT = 0.9999
"""Least share of the same top-1: classes whose logits agree to five digits change places in one of 100,000 images."""

INT8_AGREEMENT_MARGIN = 0.01
INT8_ERROR_FACTOR = 2
"""Factor by which int8's mean logit error may exceed the one measured at export, which was measured on other images."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The result of one candidate.

    Args:
        candidate: a runtime and a precision, or a runtime alone if it offers none.
        missing: the package, hardware or file that it lacks here, which is no fault.
        fault: what is beyond the thresholds of its precision, or why it fails; None if it passes.
        golden: comparison with the exported logits of the artifact's own images.
        images: comparison with the reference on the labelled images; None without them.
        images_per_s: rate on these, with decoding.
        promises: what was measured of them on these, where the model has reference images.
        only_reference: whether all of these are reference images, on which no promise can be measured.
        speed: of the engine alone; None if it fails its probe.
    """

    candidate: str
    missing: str | None = None
    fault: str | None = None
    golden: Comparison | None = None
    images: Comparison | None = None
    images_per_s: float | None = None
    promises: Promises = field(default_factory=Promises)
    only_reference: bool = False
    speed: Speed | None = None

    def describe(self) -> list[str]:
        """The result as lines of text."""
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
        if self.only_reference:
            lines.append(ONLY_REFERENCE)
        return [*lines, *self.promises.describe(), "passes" if self.fault is None else f"FAILS: {self.fault}"]


def verify_engines(
    artifact: Artifact,
    source: ImageSource | None = None,
    *,
    threads: int,
    max_batch_size: int,
    on_error: Callable[[str], None] | None = None,
) -> Iterator[Verification]:
    """Verifies each engine in each precision, the reference first: ONNX Runtime's fp32, or else the first in fp32 that passes.

    The artifact's own images are compared with PyTorch's logits, for int8 with the quantized graph's, at batch 1, an odd
    one and the largest. Labelled images are run in the largest batch, and compared with the engine in fp32.

    Args:
        source: labelled images, to measure accuracy and agreement on.
        threads, max_batch_size: see :class:`EngineOptions`.
        on_error: see :func:`dhvt.evaluation.metrics.collect_outputs`.

    Raises:
        DataError: an image cannot be read and there is no ``on_error``.
    """
    options = EngineOptions(threads=threads, max_batch_size=max_batch_size)
    candidates: list[str] = []
    for name in ENGINES:
        try:
            candidates += [f"{name}:{precision}" for precision in find_precisions(artifact, name)]
        except EngineUnavailable as error:
            yield Verification(candidate=name, missing=str(error))
        except EngineError as error:
            yield Verification(candidate=name, fault=str(error))
    reference: NDArray[np.float32] | None = None
    kept = load_reference(artifact)
    for candidate in sorted(candidates, key=lambda name: (name != REFERENCE, not name.endswith(":fp32"))):
        try:
            found, outputs = _run(artifact, candidate, options, source, on_error)
        except EngineUnavailable as error:
            found, outputs = Verification(candidate=candidate, missing=str(error)), None
        except EngineError as error:
            found, outputs = Verification(candidate=candidate, fault=str(error)), None
        if outputs is not None:
            if reference is None and candidate.endswith(":fp32") and found.fault is None:
                reference = outputs.logits
            found = _compare_images(found, reference, outputs, artifact.card, max_batch_size)
            assert source is not None  # or there would be no outputs
            if kept is not None:
                others = leave_out_reference(outputs, source, kept)
                found = replace(found, only_reference=not len(others.labels))
                promises = check_promises(others, artifact.card.temperature, kept, _precision(candidate))
                found = replace(found, promises=promises, fault=found.fault or promises.fault)
        yield found


def _run(
    artifact: Artifact,
    candidate: str,
    options: EngineOptions,
    source: ImageSource | None,
    on_error: Callable[[str], None] | None,
) -> tuple[Verification, Outputs | None]:
    """The comparison with the artifact's own images, and the outputs on the labelled ones if there are any."""
    speed = probe(artifact, candidate, options, use_cache=False, measure=True)
    engine = build_engine(artifact, candidate, options, recall_compiled(artifact, candidate, options))
    golden = _compare_golden(engine, artifact, options.max_batch_size)
    # A share of four images means little, so only the logit errors count.
    fault = Tolerance(atol=ATOL[engine.precision], top1_agreement=0).fault(golden)
    found = Verification(candidate=candidate, fault=fault, golden=golden, speed=speed)
    if source is None:
        return found, None
    start = perf_counter()
    preprocess = artifact.card.preprocess
    outputs = collect_outputs(engine.predict, source, preprocess, batch_size=options.max_batch_size, on_error=on_error)
    return replace(found, images_per_s=len(outputs.labels) / (perf_counter() - start)), outputs


def _compare_images(
    found: Verification, reference: NDArray[np.float32] | None, outputs: Outputs, card: ModelCard, batch_size: int
) -> Verification:
    """The verification with the comparison of the outputs with the reference's logits."""
    if reference is None:
        return replace(found, fault=found.fault or "no engine in fp32 passes here to compare its logits with")
    images = compare_logits(found.candidate, reference, outputs.logits, (batch_size,), outputs.labels)
    allowed = tolerance(card, _precision(found.candidate)).on_sample(images.images)
    return replace(found, images=images, fault=found.fault or allowed.fault(images))


def _precision(candidate: str) -> str:
    return candidate.partition(":")[2]


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
    """The largest difference from fp32 that the precision may have on many images."""
    if precision == "fp32":
        return replace(FP32, top1_agreement=FP32_AGREEMENT)
    quantized = card.find_variant(format=OPENVINO, precision=precision)
    if quantized is None:
        return TOLERANCES[precision]
    measured = quantized.parity["comparisons"][0]
    return Tolerance(
        mean_error=INT8_ERROR_FACTOR * measured["mean_abs_error"],
        top1_agreement=measured["top1_agreement"] - INT8_AGREEMENT_MARGIN,
    )
