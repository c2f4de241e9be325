"""Whether a model's promises hold on labelled images: how often the right label is in its prediction sets."""

from __future__ import annotations

import numpy as np

from dhvt.confidence.coverage import Coverage, measure_coverage
from dhvt.confidence.reference import Reference
from dhvt.data.fingerprint import hash_images
from dhvt.data.sources import ImageSource, Subset
from dhvt.evaluation.calibration import softmax
from dhvt.evaluation.metrics import Outputs


def check_coverage(
    outputs: Outputs, source: ImageSource, temperature: float, reference: Reference | None, precision: str
) -> list[Coverage]:
    """The coverage on those images that are not reference images themselves; empty without a reference or such images.

    Args:
        outputs: of the source's images, from an engine in this precision.
        temperature: the model's.
    """
    if reference is None:
        return []
    known = set(reference.hashes.tolist())
    others = np.array([value not in known for value in hash_images(Subset(source, outputs.indices))], dtype=bool)
    measured, _ = reference.find(precision)
    return measure_coverage(measured.true_score, softmax(outputs.logits[others] / temperature), outputs.labels[others])
