"""The self-test: an engine must give the logits here that PyTorch gave at export."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dhvt.artifact import OPENVINO, Artifact
from dhvt.data.preprocess import preprocess_image
from dhvt.engines.base import Engine
from dhvt.errors import EngineError, ImageError, SelfTestError

ATOL = {"fp32": 2e-3, "fp16": 0.05, "bf16": 0.15, "int8": 0.15}
"""Largest absolute logit error by precision, over an artifact's few golden images; logits reach about 10.

fp16 keeps 11 bits, bf16 8. On the golden images of a trained DHVT-T their graphs were off by 0.005 and 0.026, on 256
drawn ones by 0.014 and 0.074; over thousands the largest error grows on, to 0.02 and 0.21 on 2,048 real ones. A runtime
that computes something else is off by more than these, and one that rounds in another order by less. int8 is compared
with what the quantized graph gave at export, whose distance from PyTorch was measured there."""


def golden_images(artifact: Artifact, precision: str) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The artifact's self-test: images ``(N, H, W, 3)`` and the logits ``(N, classes)`` that they must give.

    Raises:
        EngineError: they cannot be decoded here.
    """
    card = artifact.card
    quantized = card.find_variant(format=OPENVINO, precision=precision)
    golden = card.golden.expected() if quantized is None or quantized.golden_logits is None else quantized.golden_logits
    try:
        return np.stack([preprocess_image(image, card.preprocess) for image in card.golden.encoded()]), golden
    except ImageError as error:
        raise EngineError(f"the artifact's self-test images cannot be decoded: {error}") from error


def self_test(engine: Engine, artifact: Artifact, batch_sizes: tuple[int, ...]) -> None:
    """Runs the artifact's golden images through preprocessing and engine, at each batch size.

    Raises:
        SelfTestError: a logit is not finite, or differs by more than the precision explains.
    """
    inputs, golden = golden_images(artifact, engine.precision)
    atol = ATOL[engine.precision]
    for batch_size in batch_sizes:
        rows = np.arange(max(batch_size, len(inputs))) % len(inputs)
        batches = np.array_split(rows, range(batch_size, len(rows), batch_size))
        got, wanted = np.concatenate([engine.predict(inputs[batch]) for batch in batches]), golden[rows]
        if got.shape != wanted.shape:
            raise SelfTestError(f"{engine.name}: self-test at batch {batch_size} gives {got.shape}, expected {wanted.shape}")
        if not np.isfinite(got).all():
            raise SelfTestError(
                f"{engine.name} in {engine.precision}: self-test at batch {batch_size} gives logits that are not finite numbers"
            )
        error_found = float(np.abs(got - wanted).max())
        if not error_found <= atol:  # so that a NaN in model.json fails
            raise SelfTestError(
                f"{engine.name} in {engine.precision}: self-test at batch {batch_size} is off by {error_found:.3g} "
                f"(at most {atol:g}); this machine's runtime or Pillow gives other results than at export"
            )
