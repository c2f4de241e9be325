"""Validation: the model in training on the validation images, of which each process computes its share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import nn

from dhvt.data.preprocess import Preprocess
from dhvt.data.sources import ImageSource, Subset
from dhvt.errors import EngineError, TrainError
from dhvt.evaluation.calibration import negative_log_likelihood
from dhvt.evaluation.metrics import Evaluation, Outputs, calibrate, collect_outputs
from dhvt.model.inference import InferenceModel
from dhvt.training.broken_images import BrokenImages
from dhvt.training.decoding import Pixels
from dhvt.training.losses import DIVERGED
from dhvt.training.run import Run


@dataclass(frozen=True, kw_only=True)
class Validation:
    """A model's outputs for the validation images, and how good they are; ``temperature`` is fitted on all of them.

    Args:
        class_weights: of the training's loss, ``(classes,)``; None where all images count alike.
    """

    outputs: Outputs
    evaluation: Evaluation
    temperature: float
    broken_images: int
    class_weights: NDArray[np.float32] | None = None

    @property
    def loss(self) -> float:
        """Mean cross-entropy at temperature 1 and without label smoothing, with the classes' weights: what ``best.pt`` and
        ``--patience`` go by.
        """
        labels = self.outputs.labels
        weights = None if self.class_weights is None else self.class_weights[labels]
        return negative_log_likelihood(self.outputs.logits, labels, weights)

    def to_metrics(self) -> dict[str, Any]:
        """Plain numbers, as checkpoints and ``metrics.jsonl`` have them."""
        return {
            "val_loss": self.loss,
            "val_top1": self.evaluation.top1,
            "val_top5": self.evaluation.top5,
            "val_balanced_accuracy": self.evaluation.balanced_accuracy,
            "val_macro_f1": self.evaluation.macro_f1,
            "val_nll": self.evaluation.nll,
            "val_ece": self.evaluation.ece,
            "temperature": self.temperature,
            "val_images": self.evaluation.images,
            "broken_images": self.broken_images,
        }


def validate(run: Run, model: nn.Module, broken: BrokenImages, pixels: Iterable[Pixels] | None = None) -> Validation:
    """Measures a model on the run's validation images; every process has to call it, and each has the result.

    Args:
        pixels: this process's share of the images, decoded; None decodes them here.

    Raises:
        DataError: an image cannot be read, unless such are skipped; or not one of a process's share can.
        TrainError: the model's answer to an image is not finite.
    """
    try:
        outputs = collect_validation(
            model,
            run.images.val,
            run.preprocess,
            run.accelerator,
            pixels=pixels,
            on_error=broken.report,
        )
    except EngineError as error:
        is_narrow = run.accelerator.mixed_precision == "fp16"  # its largest number is 65,504
        hint = "go on with --resume and --amp bf16 or --amp off" if is_narrow else DIVERGED
        raise TrainError(f"{error}; {hint}") from error
    broken.gather()
    by = run.images.group_by
    evaluation, temperature = calibrate(outputs, None if by is None else run.images.val.groups(by))
    weights = run.class_weights
    return Validation(
        outputs=outputs,
        evaluation=evaluation,
        temperature=temperature,
        broken_images=len(broken),
        class_weights=None if weights is None else weights.numpy(),
    )


def collect_validation(
    model: nn.Module,
    source: ImageSource,
    preprocess: Preprocess,
    accelerator: Accelerator,
    *,
    pixels: Iterable[Pixels] | None,
    on_error: Callable[[str], None],
) -> Outputs:
    """The model's outputs for all images of a source, in every process; each computes its share.

    Args:
        model: on the accelerator's device.
        pixels: of this process's share; None decodes it here.
        on_error: called for each broken image of the share, which is omitted.

    Raises:
        DataError: not one image of a share can be read.
    """
    inference_model = InferenceModel(model, preprocess).to(accelerator.device).eval()

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode(), accelerator.autocast():
            logits: NDArray[np.float32] = inference_model(torch.from_numpy(images).to(accelerator.device)).float().cpu().numpy()
        return logits

    mine = np.arange(accelerator.process_index, len(source), accelerator.num_processes)
    share = Subset(source, mine)
    outputs = collect_outputs(predict, share, preprocess, on_error=on_error, pixels=pixels)
    if accelerator.num_processes > 1:
        outputs = Outputs.join(gather_object([replace(outputs, indices=mine[outputs.indices])]))
    return outputs
