"""What a training prints: log lines, and a progress bar for each epoch with its means so far."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

from dhvt.training.distributed import is_main_process
from dhvt.training.step import TrainState


def log(message: str) -> None:
    """Prints a line above the progress bar, once for all processes."""
    if is_main_process():
        tqdm.write(message)


class EpochProgress:
    """The progress bar of one epoch, the mean loss and accuracy of its steps, and their speed in this process's life.

    Args:
        state: at the epoch's first step, or where it resumes.
        batch_size: of all processes.
    """

    def __init__(self, state: TrainState, batch_size: int) -> None:
        self.state, self.batch_size = state, batch_size
        self.images = 0
        if state.is_between_epochs:
            state.losses.restart()
        self.started = time.monotonic()
        self.bar = tqdm(
            total=state.steps_per_epoch,
            initial=state.step % state.steps_per_epoch,
            desc=f"epoch {state.epochs_done + 1}/{state.recipe.epochs}",
            unit="batch",
            mininterval=0.5,
            disable=not is_main_process(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.bar.close()

    def update(self) -> None:
        """After a step; shows the means of the steps whose losses were looked at."""
        self.images += self.batch_size
        rate = self._rate()
        mean = "loss {train_loss:.3f}, acc {train_top1:.1f} %, ".format(**self._means()) if self.state.losses.steps else ""
        self.bar.set_postfix_str(
            f"{mean}{rate:.0f} images/s, training left {self._images_left() / rate / 60:.0f} min", refresh=False
        )
        self.bar.update()

    def metrics(self) -> dict[str, float]:
        """Of the steps so far, of which there is one at least; all processes have to call it."""
        self.state.losses.check()
        return {**self._means(), "images_per_s": self._rate()}

    def _means(self) -> dict[str, float]:
        losses = self.state.losses
        return {
            "train_loss": losses.loss_sum / losses.steps,
            "train_top1": 100 * losses.correct / (losses.steps * self.batch_size),
        }

    def _rate(self) -> float:
        return self.images / (time.monotonic() - self.started)

    def _images_left(self) -> float:
        """Images until the end, in images of the present size: a step takes about as long as they are wide."""
        state, recipe = self.state, self.state.recipe
        progress = state.step / state.total_steps
        scale = recipe.mean_scale_after(progress) / recipe.scale_at(progress)
        return (state.total_steps - state.step) * self.batch_size * scale
