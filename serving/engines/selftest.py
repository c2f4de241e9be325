"""Proof that an engine says on this machine what PyTorch said at export."""

from __future__ import annotations

import numpy as np

from dhvt.artifact import Artifact
from dhvt.errors import EngineError, ImageError
from dhvt.preprocess import preprocess
from serving.engines.base import Engine

ATOL = {"fp32": 2e-3, "bf16": 0.15}
"""Largest absolute logit error by precision; bf16 keeps 8 bits, and logits reach about 10."""


def self_test(engine: Engine, artifact: Artifact, max_batch_size: int) -> None:
    """Runs the artifact's golden pictures through preprocessing and engine, one by one and in the largest batch.

    Raises:
        EngineError: a logit differs by more than the precision explains.
    """
    golden = artifact.card.golden
    expected = golden.expected()
    try:
        inputs = np.stack([preprocess(picture, artifact.card.preprocess) for picture in golden.encoded()])
    except ImageError as error:
        raise EngineError(f"the artifact's self-test pictures cannot be decoded: {error}") from error
    rows = np.arange(max_batch_size) % len(inputs)
    singles = np.concatenate([engine.predict(image[None]) for image in inputs])
    batch = engine.predict(inputs[rows])
    atol = ATOL[engine.precision]
    for kind, got, wanted in (("batch 1", singles, expected), (f"batch {max_batch_size}", batch, expected[rows])):
        if got.shape != wanted.shape:
            raise EngineError(f"{engine.name}: self-test at {kind} gives {got.shape}, expected {wanted.shape}")
        error_found = float(np.abs(got - wanted).max())
        if not error_found <= atol:  # so that a NaN fails
            raise EngineError(
                f"{engine.name} in {engine.precision}: self-test at {kind} is off by {error_found:.3g} (at most {atol:g}); "
                "this machine's runtime or Pillow computes something else than was exported"
            )
