"""The reference of an artifact, measured: labelled images that the model has not seen, in every precision that runs here."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dhvt.artifact import Artifact
from dhvt.confidence.reference import BASE_PRECISION, Measured, Reference
from dhvt.data.fingerprint import hash_images
from dhvt.data.sources import ImageSource, Subset
from dhvt.engines.base import Engine, EngineOptions
from dhvt.engines.probe import probe, recall_compiled
from dhvt.engines.registry import all_candidates, build_engine
from dhvt.errors import EngineError
from dhvt.evaluation.calibration import softmax
from dhvt.evaluation.metrics import Outputs, collect_outputs

logger = logging.getLogger(__name__)


def measure_reference(
    artifact: Artifact,
    source: ImageSource,
    options: EngineOptions,
    *,
    on_error: Callable[[str], None] | None = None,
    on_engine: Callable[[str], None] = lambda name: None,
    on_progress: Callable[[int], None] | None = None,
) -> Reference:
    """Runs the images in each precision that passes its self-test here, by the best engine that has it.

    Args:
        source: labelled images that the model has not seen, see :func:`dhvt.confidence.reference.choose_images`.
        on_error: called for each unreadable image, which is omitted; None raises instead.
        on_engine: called with each candidate, such as ``openvino:int8``, before it runs.
        on_progress: called with the number of images in each batch done.

    Raises:
        EngineError: no engine runs here in fp32.
        DataError: see :func:`dhvt.evaluation.metrics.collect_outputs`.
    """
    measured: dict[str, Measured] = {}
    for candidate in all_candidates(artifact):
        precision = candidate.partition(":")[2]
        engine = None if precision in measured else _open(artifact, candidate, options)
        if engine is None:
            continue
        on_engine(candidate)
        outputs = collect_outputs(
            engine.predict,
            source,
            artifact.card.preprocess,
            batch_size=options.max_batch_size,
            on_error=on_error,
            on_progress=on_progress,
        )
        measured[precision] = Measured.of(_probabilities(outputs, artifact), outputs.labels, outputs.logits)
        source = Subset(source, outputs.indices)  # the readable ones, so that each broken one is named once
    if BASE_PRECISION not in measured:
        raise EngineError(f"no engine runs this model in {BASE_PRECISION} here; see dhvt verify")
    measured = {BASE_PRECISION: measured.pop(BASE_PRECISION), **measured}
    hashes = np.array(list(hash_images(source)), dtype=np.uint64)
    return Reference(labels=source.labels.astype(np.int32), hashes=hashes, measured=measured)


def _open(artifact: Artifact, candidate: str, options: EngineOptions) -> Engine | None:
    """The engine, where it passes its self-test in a process of its own."""
    try:
        probe(artifact, candidate, options)
        return build_engine(artifact, candidate, options, recall_compiled(artifact, candidate, options))
    except EngineError as error:
        logger.warning("%s is not measured: %s", candidate, error)
        return None


def _probabilities(outputs: Outputs, artifact: Artifact) -> NDArray[np.float64]:
    """Calibrated, exactly as :func:`dhvt.ranking.rank` computes them."""
    return softmax(outputs.logits / artifact.card.temperature)
