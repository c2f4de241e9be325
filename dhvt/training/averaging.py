"""One model of several checkpoints of a run: the mean of their weights (Izmailov et al. 2018, Wortsman et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from dhvt.data.sources import ImageSource
from dhvt.errors import CheckpointError
from dhvt.evaluation.metrics import Evaluation, calibrate, collect_outputs
from dhvt.model.checkpoint import Checkpoint, State
from dhvt.model.inference import InferenceModel, torch_predict


def average_checkpoints(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """The mean of what each would export. It can be exported and fine-tuned, but not resumed, and is not measured yet.

    Raises:
        CheckpointError: there are fewer than two, or they are of different models, classes, preparations or images.
    """
    if len(checkpoints) < 2:
        raise CheckpointError("an average takes two checkpoints or more")
    checkpoints = sorted(checkpoints, key=lambda checkpoint: checkpoint.step)
    last = checkpoints[-1]
    for name in ("name", "config", "classes", "preprocess", "data"):
        if any(getattr(checkpoint, name) != getattr(last, name) for checkpoint in checkpoints):
            raise CheckpointError(f"the checkpoints differ in {name}; an average takes those of one run")
    states = [checkpoint.build_model().state_dict() for checkpoint in checkpoints]
    mean: State = {}
    for name, value in states[-1].items():
        floating = value.is_floating_point()
        mean[name] = torch.stack([state[name] for state in states]).mean(dim=0) if floating else value
    return replace(last, weights=mean, ema=None, optimizers=[], scaler=None, metrics={}, temperature=1.0)


def measure(
    checkpoint: Checkpoint,
    source: ImageSource,
    on_progress: Callable[[int], None],
    on_error: Callable[[str], None] | None = None,
) -> tuple[Evaluation, float]:
    """How good it is on held-out images, and the temperature that was fitted on them.

    Args:
        source: with the checkpoint's classes.
        on_progress: called with the number of images done since the last call.
        on_error: called with a message for each image that cannot be read, which is then left out.

    Raises:
        DataError: an image cannot be read, without ``on_error``.
    """
    preprocess = checkpoint.build_preprocess()
    graph = InferenceModel(checkpoint.build_model(), preprocess).eval()
    outputs = collect_outputs(torch_predict(graph), source, preprocess, on_progress=on_progress, on_error=on_error)
    return calibrate(outputs)
