"""One optimizer step: forward, backward and the update of the weights and of their moving average."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional

from dhvt.errors import CheckpointError, TrainError
from dhvt.model.checkpoint import Checkpoint
from dhvt.training.config import Recipe
from dhvt.training.optim import build_optimizers, learning_rate
from dhvt.training.seeds import seed_everything
from dhvt.training.transforms import BatchTransform

_DIVERGED = "the last checkpoint is untouched. Train into another --out with a lower --lr or with --clip-grad 1"


class TrainState:
    """A network with its optimizers and averaged weights: all that changes with each step.

    Args:
        model: on the accelerator's device.
        recipe: how to train it, with the batch size that the data allows.
        accelerator: in what precision, and in how many processes.
        transform: what is done to each batch on the device.
        steps_per_epoch: optimizer steps.
        accumulate: micro-batches that a batch is cut into.

    Attributes:
        step: optimizer steps done.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        accelerator: Accelerator,
        transform: BatchTransform,
        *,
        steps_per_epoch: int,
        accumulate: int = 1,
    ) -> None:
        self.model, self.recipe, self.accelerator, self.device = model, recipe, accelerator, accelerator.device
        self.steps_per_epoch, self.accumulate = steps_per_epoch, accumulate
        self.step = 0
        self.ema = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None
        self.optimizers = build_optimizers(model, recipe)
        self._network: nn.Module = accelerator.prepare_model(model)  # with autocast and gradient exchange
        self._transform = transform

    @property
    def total_steps(self) -> int:
        """Of the whole training."""
        return self.recipe.epochs * self.steps_per_epoch

    @property
    def averaged(self) -> nn.Module:
        """The model that is validated and exported: with averaged weights where the recipe has them."""
        return self.model if self.ema is None else self.ema.module

    @property
    def epochs_done(self) -> int:
        """Whole epochs."""
        return self.step // self.steps_per_epoch

    @property
    def is_between_epochs(self) -> bool:
        """Whether the last step ended an epoch, or there was none."""
        return self.step % self.steps_per_epoch == 0

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are done."""
        return self.step >= self.total_steps

    def train_batch(self, images: Tensor, labels: Tensor) -> tuple[float, int]:
        """One optimizer step.

        Args:
            images: ``(B, 3, H, W)`` uint8, this process's share of a batch.
            labels: ``(B,)``.

        Returns:
            The loss, and the number of correctly classified images, of the whole batch.

        Raises:
            TrainError: the loss is not finite.
        """
        images, labels = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        accelerator, count = self.accelerator, self.accumulate
        seed_everything(self.recipe.seed, 2, self.step * accelerator.num_processes + accelerator.process_index)
        total, correct = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        micro_batches = zip(images.chunk(count), labels.chunk(count), strict=True)
        for number, (micro_images, micro_labels) in enumerate(micro_batches):
            # Gradients are exchanged once, with those of the last micro-batch.
            with nullcontext() if number == count - 1 else accelerator.no_sync(self._network):
                logits, loss = self._forward(micro_images, micro_labels)
                accelerator.backward(loss / count)
            total += loss.detach() / count
            correct += (logits.detach().argmax(1) == micro_labels).sum()
        mean_loss, all_correct = accelerator.reduce(torch.stack((total / accelerator.num_processes, correct))).tolist()
        if not math.isfinite(mean_loss):
            raise TrainError(f"the loss became {mean_loss} at step {self.step}; {_DIVERGED}")
        self._update_weights()
        self.step += 1
        return mean_loss, int(all_correct)

    def _forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        inputs, targets = self._transform(images, labels, self.step / self.total_steps)
        logits = self._network(inputs)
        loss = functional.cross_entropy(logits.float(), targets, label_smoothing=self._transform.label_smoothing)
        return logits, loss

    def _update_weights(self) -> None:
        scaler = self.accelerator.scaler  # of fp16, else None
        if self._gradients_are_usable():
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

    def _gradients_are_usable(self) -> bool:
        """Whether no optimizer's gradients overflowed, in fp16; they are unscaled and clipped on the way.

        After an overflow no optimizer may step: one whose own gradients are finite would, and clipped by infinity.
        """
        scaler = self.accelerator.scaler
        if scaler is not None:
            for optimizer in self.optimizers:
                scaler.unscale_(optimizer)
        if not self.recipe.clip_grad and scaler is None:
            return True
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad or math.inf)
        return scaler is None or bool(norm.isfinite())

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

    def to_dict(self) -> dict[str, Any]:
        """What a :class:`~dhvt.model.checkpoint.Checkpoint` stores of it, by the names of its fields."""
        scaler = self.accelerator.scaler
        return {
            "weights": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "step": self.step,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes over what :meth:`to_dict` gave.

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
