"""One optimizer step: the network, its optimizers and averaged weights, and what is done to a batch on the device."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional

from dhvt.data.preprocess import Preprocess
from dhvt.errors import CheckpointError, TrainError
from dhvt.model.checkpoint import Checkpoint
from dhvt.model.inference import Normalize
from dhvt.training.augment import build_erasing, build_mixup, seed_everything
from dhvt.training.config import Recipe
from dhvt.training.optim import build_optimizers, learning_rate

_DIVERGED = "the last checkpoint is untouched. Train into another --out with a lower --lr or with --clip-grad 1"


class Learner:
    """A model and all that changes with each step.

    Args:
        model: on the accelerator's device.
        recipe: how to train it, with the batch size that the data allows.
        accelerator: in what precision, and in how many processes.
        preprocess: mean and standard deviation of the images.
        num_classes: that labels may name.
        steps_per_epoch: optimizer steps.
        size_multiple: what an image's sides must be a multiple of; 0 where the model cannot change its size.
        accumulate: parts that a batch is cut into.

    Attributes:
        step: optimizer steps done.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        accelerator: Accelerator,
        preprocess: Preprocess,
        *,
        num_classes: int,
        steps_per_epoch: int,
        size_multiple: int,
        accumulate: int = 1,
    ) -> None:
        self.model, self.recipe, self.accelerator, self.device = model, recipe, accelerator, accelerator.device
        self.steps_per_epoch, self.size_multiple, self.accumulate = steps_per_epoch, size_multiple, accumulate
        self.step = 0
        self.ema = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None
        self.optimizers = build_optimizers(model, recipe)
        self._network: nn.Module = accelerator.prepare_model(model)  # with autocast and gradient exchange
        self._normalize = Normalize(preprocess).to(self.device)
        self._erase = build_erasing(recipe, self.device)
        self._mixup = build_mixup(recipe, num_classes)

    @property
    def total_steps(self) -> int:
        """Of the whole training."""
        return self.recipe.epochs * self.steps_per_epoch

    @property
    def averaged(self) -> nn.Module:
        """The model that is validated and kept: with averaged weights where the recipe has them."""
        return self.model if self.ema is None else self.ema.module

    def learn(self, images: Tensor, labels: Tensor) -> tuple[float, int]:
        """One optimizer step.

        Args:
            images: ``(B, 3, H, W)`` uint8, this process's share of a batch.
            labels: ``(B,)``.

        Returns:
            The loss and the hits of the whole batch.

        Raises:
            TrainError: the loss is not finite.
        """
        images, labels = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        accelerator, parts = self.accelerator, self.accumulate
        seed_everything(self.recipe.seed, 2, self.step * accelerator.num_processes + accelerator.process_index)
        total, hits = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        for part, (some_images, some_labels) in enumerate(zip(images.chunk(parts), labels.chunk(parts), strict=True)):
            # Gradients are exchanged once, with the last part's.
            with nullcontext() if part == parts - 1 else accelerator.no_sync(self._network):
                logits, loss = self._forward(some_images, some_labels)
                accelerator.backward(loss / parts)
            total += loss.detach() / parts
            hits += (logits.detach().argmax(1) == some_labels).sum()
        value, correct = accelerator.reduce(torch.stack((total / accelerator.num_processes, hits))).tolist()
        if not math.isfinite(value):
            raise TrainError(f"the loss became {value} at step {self.step}; {_DIVERGED}")
        self._update_weights()
        self.step += 1
        return value, int(correct)

    def _forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        inputs = self._erase(self._rescale(self._normalize(images.permute(0, 2, 3, 1))))
        targets, smoothing = labels, self.recipe.label_smoothing
        if self._mixup is not None:
            inputs, targets = self._mixup(inputs, labels)
            smoothing = 0.0  # it is in the mixed targets
        logits = self._network(inputs)
        return logits, functional.cross_entropy(logits.float(), targets, label_smoothing=smoothing)

    def _update_weights(self) -> None:
        scaler = self.accelerator.scaler  # of fp16, else None
        if scaler is not None:
            for optimizer in self.optimizers:
                scaler.unscale_(optimizer)
        overflowed = False
        if self.recipe.clip_grad or scaler is not None:
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad or math.inf)
            overflowed = scaler is not None and not bool(norm.isfinite())
        if not overflowed:  # or the optimizer whose own gradients are finite would take the step, and clipped by infinity
            lr = learning_rate(self.recipe, self.step, self.steps_per_epoch)
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = lr
                if scaler is None:
                    optimizer.step()
                else:
                    scaler.step(optimizer)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        if scaler is not None:
            scaler.update()
        if self.ema is not None:
            self.ema.update(self.model, self.step)

    def _rescale(self, inputs: Tensor) -> Tensor:
        scale = self.recipe.scale_at(self.step / self.total_steps)
        if scale == 1 or not self.size_multiple:
            return inputs
        size = [max(round(side * scale / self.size_multiple), 1) * self.size_multiple for side in inputs.shape[-2:]]
        return functional.interpolate(inputs, size, mode="bilinear", antialias=True)

    def require_finite(self) -> None:
        """Looks at every weight and its average, because the loss was that of the weights before the last update.

        Raises:
            TrainError: one is not finite, so that a checkpoint of them would be of no use.
        """
        for model in (self.model, self.averaged):
            for name, value in model.state_dict().items():
                if value.is_floating_point() and not bool(value.isfinite().all()):
                    raise TrainError(f"the weight {name} is no longer finite after step {self.step}; {_DIVERGED}")

    def learning_rate(self) -> float:
        """Of the last step."""
        return learning_rate(self.recipe, self.step - 1, self.steps_per_epoch)

    def state(self) -> dict[str, Any]:
        """What a :class:`~dhvt.model.checkpoint.Checkpoint` keeps of it, by the names of its fields."""
        scaler = self.accelerator.scaler
        return {
            "weights": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "step": self.step,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes over what :meth:`state` gave.

        Raises:
            CheckpointError: its optimizers are of other weights.
        """
        self.step = checkpoint.step
        self.model.load_state_dict(checkpoint.weights)
        if self.ema is not None:
            self.ema.module.load_state_dict(checkpoint.weights if checkpoint.ema is None else checkpoint.ema)
        try:
            for optimizer, state in zip(self.optimizers, checkpoint.optimizers, strict=True):
                decays = [group["weight_decay"] for group in optimizer.param_groups]  # the recipe's, which may have changed
                optimizer.load_state_dict(state)
                for group, decay in zip(optimizer.param_groups, decays, strict=True):
                    group["weight_decay"] = decay
        except ValueError as error:  # an older checkpoint does not say whether it was frozen
            raise CheckpointError(
                f"cannot resume: the checkpoint's optimizers do not fit ({error}); repeat the first command with "
                "--resume, with or without --freeze and --optimizer as then"
            ) from error
        if self.accelerator.scaler is not None and checkpoint.scaler is not None:
            self.accelerator.scaler.load_state_dict(checkpoint.scaler)
