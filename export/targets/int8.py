"""The target ``int8``: a quantized graph for processors that multiply int8 faster, kept only where it pays."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dhvt.artifact import GRAPH_NAME, INT8_NAMES, OPENVINO, ModelCard, Variant
from dhvt.card import top1_loss
from dhvt.data.batches import Predict
from dhvt.data.fingerprint import Fingerprint
from dhvt.data.preprocess import preprocess_image
from dhvt.data.record import record_source, require_unseen, warn_of_overlaps
from dhvt.engines.accuracy import largest_top1_loss
from dhvt.engines.chunks import run_in_chunks
from dhvt.evaluation.agreement import Comparison, compare_logits
from export.targets.registry import Job, Target

if TYPE_CHECKING:
    from export.images import ExportImages

CALIBRATION_IMAGES = 1000
LEAST_SPEEDUP = 1.1
COMPARED_BATCH_SIZE = 64
TIMED_BATCH_SIZE = 32
TIMED_ROUNDS = 11


@dataclass(frozen=True, kw_only=True)
class Int8Settings:
    """It has none: the images decide."""


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """Measurements of the quantized graph, in OpenVINO on the exporting machine.

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


def add_int8(job: Job, card: ModelCard, settings: Int8Settings) -> ModelCard:
    """Quantizes ``model.onnx``, measures accuracy and speed beside float32's, and drops it where it does not pay.

    Raises:
        DataError: the images to compare on are among those that it is calibrated on.
        ExportError: it cannot be quantized.
    """
    from dhvt.engines.openvino import ChunkedModel
    from dhvt.hardware.cpus import available_cpus
    from export.images import COMPARISON_IMAGES, sample
    from export.parity import installed_versions
    from export.quantize import quantize

    images = job.images
    assert images is not None
    data = require_apart(images)
    calibration = sample(images.calibration, card.preprocess, CALIBRATION_IMAGES, images.on_error).images
    quantize(job.folder / GRAPH_NAME, calibration, job.folder)
    compared_on = sample(images.comparison, card.preprocess, COMPARISON_IMAGES, images.on_error)
    graphs = (job.folder / name for name in (GRAPH_NAME, INT8_NAMES[0]))
    fp32, int8 = (ChunkedModel(path, threads=available_cpus()).predict for path in graphs)
    result = compare_quantized(int8, fp32, compared_on.images, compared_on.labels, len(calibration))
    reason = reason_to_drop(result)
    if reason is not None:
        for name in INT8_NAMES:
            (job.folder / name).unlink()
        job.log(f"left out: {reason}", err=True)
        return _without_int8(card)
    golden = np.stack([preprocess_image(image, card.preprocess) for image in card.golden.encoded()])
    held_out = "training" in images.known
    parity = result.to_parity() | {"tolerance": {"top1_loss": largest_top1_loss(result.comparison.images)}}
    parity |= {"held_out": held_out, "golden_logits": int8(golden).tolist(), "data": data["comparison"]}
    job.log(describe(result, held_out))
    card = replace(card, data=card.data | {"calibration": data["calibration"]})
    variant = Variant(format=OPENVINO, precision="int8", files=INT8_NAMES, parity=parity)
    return replace(card, versions=card.versions | installed_versions("openvino", "nncf")).with_variant(variant)


def _without_int8(card: ModelCard) -> ModelCard:
    """The card without an int8 graph of an earlier export, whose files were overwritten."""
    variants = tuple(variant for variant in card.variants if not {*variant.files} & {*INT8_NAMES})
    data = {kind: entry for kind, entry in card.data.items() if kind != "calibration"}
    return replace(card, variants=variants, data=data)


def require_apart(images: ExportImages) -> dict[str, dict[str, Any]]:
    """Checks that the graph is compared on other images than it is calibrated on.

    Returns:
        The records of the images to calibrate with and to compare on.

    Raises:
        DataError: they overlap, unless the training itself divided them so; that is logged.
    """
    from export.images import COMPARISON_IMAGES, spread

    records = {
        "calibration": record_source(spread(images.calibration, CALIBRATION_IMAGES)),
        "comparison": record_source(spread(images.comparison, COMPARISON_IMAGES)),
    }
    compared, known = Fingerprint.from_dict(records["comparison"]), {"calibration": records["calibration"]}
    what = f"the images to compare int8 on ({images.comparison.origin})"
    if images.split_as_trained:
        warn_of_overlaps(compared, known, what=what)
    else:
        require_unseen(compared, known, what=what, hint="give others with --val")
    return records


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
    lost, allowed = top1_loss(compared.to_dict()), largest_top1_loss(compared.images)
    assert lost is not None
    if not lost <= allowed:
        return f"int8 costs {lost:.2f} points of top-1 on {compared.images} images (at most {allowed:.2f})"
    if not result.speedup >= LEAST_SPEEDUP:
        return f"int8 is {result.speedup:.2f} times as fast as fp32 on this processor (at least {LEAST_SPEEDUP})"
    return None


def describe(result: Quantization, held_out: bool) -> str:
    """One line about a quantized graph that is kept."""
    row = result.comparison
    return (
        f"int8: top-1 {row.top1:.2f} %, fp32 {row.top1_reference:.2f} %, the same for {row.top1_agreement:.1%} of {row.images} "
        f"images {'that training did not learn from' if held_out else 'of --data'}; {result.speedup:.2f} times as fast"
    )


TARGET = Target(
    help="a graph in int8 for OpenVINO, kept where it holds the accuracy on --data and is faster here",
    settings=Int8Settings,
    packages=("nncf", "openvino"),
    install="pip install 'dhvt-serve[cpu,export]'",
    needs_images="int8 needs --data: images to calibrate with, and to prove that accuracy is kept",
    add=add_int8,
)
