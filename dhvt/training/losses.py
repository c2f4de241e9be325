"""The losses of the steps so far, kept on the device until somebody looks."""

from __future__ import annotations

import math

import torch
from accelerate import Accelerator
from torch import Tensor

from dhvt.errors import TrainError

CHECK_EVERY = 50
"""Steps after which losses are looked at, which waits for an accelerator."""

DIVERGED = "the last checkpoint is untouched. Train into another --out with a lower --lr or with --clip-grad 1"


def steps_between_checks(device: torch.device) -> int:
    """:data:`CHECK_EVERY`; on a CPU there is nothing to wait for, so there it is each step."""
    return 1 if device.type == "cpu" else CHECK_EVERY


class StepLosses:
    """Mean loss and number of correctly classified images of each step, summed up as they are checked.

    Attributes:
        steps: of this epoch that were checked.
        loss_sum: of their mean losses.
        correct: of their images, in all processes.
        recent: the mean losses of checked steps that no tracker was told yet.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.check_every = steps_between_checks(accelerator.device)
        self._pending = torch.zeros(self.check_every, 2, device=accelerator.device)
        self._count, self._last_step = 0, 0
        self.recent: list[float] = []
        self.restart()

    def restart(self, steps: int = 0, loss_sum: float = 0.0, correct: int = 0) -> None:
        """Starts the sums again, or goes on from earlier :meth:`sums`."""
        self.steps, self.loss_sum, self.correct = steps, loss_sum, correct

    def sums(self) -> dict[str, float]:
        """Of the checked steps of this epoch."""
        return {"steps": self.steps, "loss_sum": self.loss_sum, "correct": self.correct}

    @property
    def is_due(self) -> bool:
        """Whether :meth:`check` should be called; no further step can be added then."""
        return self._count == self.check_every

    def add(self, loss: Tensor, correct: Tensor, step: int) -> None:
        """Takes note of a step, without waiting for it.

        Args:
            loss: the mean over this process's images.
            correct: the number of them that were classified correctly.
            step: steps done before it.
        """
        self._pending[self._count, 0], self._pending[self._count, 1] = loss, correct
        self._count, self._last_step = self._count + 1, step

    def check(self) -> None:
        """Waits for the device and sums up; all processes have to call it after the same step.

        Raises:
            TrainError: a loss is not finite.
        """
        if not self._count:
            return
        totals: list[list[float]] = self.accelerator.reduce(self._pending[: self._count].clone()).tolist()
        first_step, self._count = self._last_step + 1 - self._count, 0
        for step, (loss, correct) in enumerate(totals, first_step):
            mean = loss / self.accelerator.num_processes
            if not math.isfinite(mean):
                raise TrainError(f"the loss became {mean} at step {step}; {DIVERGED}")
            self.recent.append(mean)
            self.steps, self.loss_sum, self.correct = self.steps + 1, self.loss_sum + mean, self.correct + int(correct)
