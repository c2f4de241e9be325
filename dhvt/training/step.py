"""One optimizer step: forward, backward and the update of the weights and of their moving average."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from dhvt.errors import CheckpointError, TrainError
from dhvt.model.checkpoint import Checkpoint
from dhvt.training.augmentation.draws import Draws
from dhvt.training.batch import TrainingBatch
from dhvt.training.batchnorm import keep_statistics_of_last_batch
from dhvt.training.class_weights import weighted_cross_entropy
from dhvt.training.config import Recipe
from dhvt.training.fields import UNCHOSEN
from dhvt.training.losses import DIVERGED, StepLosses
from dhvt.training.optim import build_optimizers, learning_rate
from dhvt.training.seeds import seed_everything
from dhvt.training.transforms import BatchTransform

_OWN_SETTINGS = ("weight_decay", "fused", "foreach")


class TrainState:
    """A network with its optimizers and averaged weights: all that changes with each step.

    Args:
        model: on the accelerator's device.
        recipe: how to train it, with the batch size that the data allows.
        accelerator: in what precision, and in how many processes.
        transform: what is done to each batch on the device.
        steps_per_epoch: optimizer steps.
        class_weights: of :func:`dhvt.training.class_weights.weigh_classes`.
        accumulate: micro-batches that a batch is cut into.
        is_compiled: whether the model is compiled for the device, once for each image size.

    Attributes:
        step: optimizer steps done.
        losses: of these steps.
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
        is_compiled: bool = False,
        class_weights: Tensor | None = None,
    ) -> None:
        assert recipe.epochs != UNCHOSEN, "the epochs are chosen before the first step"
        self.model, self.recipe, self.accelerator, self.device = model, recipe, accelerator, accelerator.device
        self.steps_per_epoch, self.accumulate = steps_per_epoch, accumulate
        self.step = 0
        self.ema = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None
        if self.ema is not None:
            keep_statistics_of_last_batch(model)
        self.optimizers = build_optimizers(model, recipe, bf16=accelerator.mixed_precision == "bf16")
        self.losses = StepLosses(accelerator)
        self._network: nn.Module = accelerator.prepare_model(model)  # with autocast and gradient exchange
        self._forward = torch.compile(self._network, dynamic=False) if is_compiled else self._network
        self._transform = transform
        self._class_weights = None if class_weights is None else class_weights.to(self.device)

    @property
    def total_steps(self) -> int:
        """Of the whole training."""
        return self.recipe.epochs * self.steps_per_epoch

    @property
    def averaged(self) -> nn.Module:
        """The model that is validated and exported: with averaged weights where the recipe has them."""
        return self.model if self.ema is None else self.ema.module

    @property
    def averaged_or_last(self) -> str:
        """Which weights :attr:`averaged` has, in a word."""
        return "last" if self.ema is None else "averaged"

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

    def train_batch(self, batch: TrainingBatch) -> None:
        """One optimizer step with this process's share of a batch; :attr:`losses` has the loss.

        Nothing in it waits for the device, but for fp16's check of the gradients.
        """
        labels = batch.labels.to(self.device, non_blocking=True)
        images = batch.images.to(self.device, non_blocking=True)
        accelerator, count = self.accelerator, self.accumulate
        seed_everything(self.recipe.seed, 2, self.step * accelerator.num_processes + accelerator.process_index)
        draws = Draws(self.recipe.seed, batch.keys.numpy())
        inputs, targets = self._transform(images, labels, draws, self.step, self.step / self.total_steps)
        total, correct = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        micro_batches = zip(inputs.chunk(count), targets.chunk(count), labels.chunk(count), strict=True)
        for number, (micro_inputs, micro_targets, micro_labels) in enumerate(micro_batches):
            # Gradients are exchanged once, with those of the last micro-batch.
            with nullcontext() if number == count - 1 else accelerator.no_sync(self._network):
                logits = self._forward(micro_inputs)
                loss = weighted_cross_entropy(logits.float(), micro_targets, self._class_weights, self.recipe.label_smoothing)
                accelerator.backward(loss / count)
            total += loss.detach() / count
            correct += (logits.detach().argmax(1) == micro_labels).sum()
        self.losses.add(total, correct, self.step)
        self._update_weights()
        self.step += 1

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
        """Looks at the losses, and at every weight and its average: the last loss was that of the weights before its update.

        Raises:
            TrainError: one is not finite, so that a checkpoint of them would be of no use.
        """
        self.losses.check()
        weights = [
            (name, value)
            for model in (self.model, self.averaged)
            for name, value in model.state_dict().items()
            if value.is_floating_point()
        ]
        finite = torch.stack([value.isfinite().all() for _, value in weights]).tolist()
        broken = [name for (name, _), is_finite in zip(weights, finite, strict=True) if not is_finite]
        if broken:
            raise TrainError(f"the weight {broken[0]} is no longer finite after step {self.step}; {DIVERGED}")

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
            "epoch_sums": {} if self.is_between_epochs else self.losses.sums(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes over what :meth:`to_dict` gave.

        Raises:
            CheckpointError: its optimizers are of other weights, or it has none.
        """
        if not checkpoint.optimizers:
            raise CheckpointError(
                "cannot resume: the checkpoint has weights alone, as a best.pt or an average has; start from it with --init, "
                "into another --out"
            )
        self.step = checkpoint.step
        self.losses.restart(**checkpoint.epoch_sums)
        self.model.load_state_dict(checkpoint.weights)
        if self.ema is not None:
            self.ema.module.load_state_dict(checkpoint.weights if checkpoint.ema is None else checkpoint.ema)
        try:
            for optimizer, state in zip(self.optimizers, checkpoint.optimizers, strict=True):
                # The recipe's weight decay may have changed, and another device may have another implementation.
                own = [{name: group.get(name) for name in _OWN_SETTINGS} for group in optimizer.param_groups]
                optimizer.load_state_dict(state)
                for group, settings in zip(optimizer.param_groups, own, strict=True):
                    group.update(settings)
        except ValueError as error:  # an older checkpoint does not say whether it was frozen
            raise CheckpointError(
                f"cannot resume: the checkpoint's optimizers do not fit ({error}); repeat the first command with "
                "--resume, with or without --freeze and --optimizer as then"
            ) from error
        if self.accelerator.scaler is not None and checkpoint.scaler is not None:
            self.accelerator.scaler.load_state_dict(checkpoint.scaler)
