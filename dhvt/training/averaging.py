"""One model of several checkpoints of a run: the mean of their weights (Izmailov et al. 2018, Wortsman et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from dhvt.data.batches import iterate_batches
from dhvt.data.sources import ImageSource, Subset
from dhvt.errors import CheckpointError
from dhvt.evaluation.metrics import Evaluation, calibrate, collect_outputs
from dhvt.model.checkpoint import Checkpoint, State
from dhvt.model.inference import InferenceModel, torch_predict
from dhvt.training.batchnorm import estimating_statistics, find_norms
from dhvt.training.resume import identify_data

BATCHNORM_IMAGES = 4096
"""Training images from which BatchNorm's statistics are recomputed; all where there are fewer."""

_BATCH_SIZE = 64


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
        values = [getattr(checkpoint, name) for checkpoint in checkpoints]
        if name == "data":
            values = [identify_data(value) for value in values]
        if any(value != values[-1] for value in values):
            raise CheckpointError(f"the checkpoints differ in {name}; an average takes those of one run")
    states = [checkpoint.build_model().state_dict() for checkpoint in checkpoints]
    mean: State = {}
    for name, value in states[-1].items():
        floating = value.is_floating_point()
        mean[name] = torch.stack([state[name] for state in states]).mean(dim=0) if floating else value
    return replace(last, weights=mean, ema=None, optimizers=[], scaler=None, metrics={}, best={}, temperature=1.0)


def recompute_batchnorm(
    checkpoint: Checkpoint, source: ImageSource, on_error: Callable[[str], None] | None
) -> Checkpoint | None:
    """The checkpoint with BatchNorm's statistics of a forward pass over training images; None where it has none.

    The mean of several models' statistics is not the statistics of the mean model (Izmailov et al. 2018, section 3.2).

    Args:
        source: the training images; :data:`BATCHNORM_IMAGES` of them are drawn, always the same ones.
        on_error: called with a message for each image that cannot be read, which is then omitted.

    Raises:
        DataError: an image cannot be read, without ``on_error``.
    """
    model, preprocess = checkpoint.build_model(), checkpoint.build_preprocess()
    if not find_norms(model) or len(source) < 2:
        return None
    inference_model = InferenceModel(model, preprocess)
    drawn = np.random.default_rng(0).permutation(len(source))[:BATCHNORM_IMAGES]
    done = 0
    with estimating_statistics(model), torch.inference_mode():
        for batch in iterate_batches(Subset(source, drawn), preprocess, _BATCH_SIZE, on_error):
            is_full = len(batch.images) == min(_BATCH_SIZE, len(drawn))  # a smaller one would count as much
            if is_full or (not done and len(batch.images) > 1):  # the variance of a single value is undefined
                inference_model(torch.from_numpy(batch.images))
                done += 1
    return replace(checkpoint, weights=model.state_dict())


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
        on_error: called with a message for each image that cannot be read, which is then omitted.

    Raises:
        DataError: an image cannot be read, without ``on_error``; or has no group of the training's ``--group-by``.
    """
    preprocess = checkpoint.build_preprocess()
    inference_model = InferenceModel(checkpoint.build_model(), preprocess).eval()
    outputs = collect_outputs(torch_predict(inference_model), source, preprocess, on_progress=on_progress, on_error=on_error)
    by = checkpoint.data.get("validation", {}).get("group_by")
    return calibrate(outputs, None if by is None else source.groups(by))
