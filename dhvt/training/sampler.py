"""Which images are in which batch: an order that only the seed and the epoch decide."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from dhvt.errors import ConfigError

Key = tuple[int, int, int]  # (epoch, index, repeat)


class EpochSampler(Sampler[list[Key]]):
    """Batches of keys in an order that only the seed and the epoch decide, from a given batch on.

    With ``repeats`` r, an epoch has each of a random 1/r of the images r times, the repeats beside each other.
    Of several processes, each takes every ``processes``-th key of a batch, so that they share out the repeats.

    Args:
        length: images.
        batch_size: keys of one optimizer step, in all processes together. With fewer images, as many as there are,
            rounded down to a multiple of ``multiple``.
        multiple: what each batch must divide by: the processes, the micro-batches of each, and the pairs of mixup.

    Raises:
        ConfigError: the batch size does not divide, or there are too few images.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        repeats: int = 1,
        process: int = 0,
        processes: int = 1,
        *,
        multiple: int = 1,
    ) -> None:
        self.batch_size = batch_size if batch_size <= length else length - length % multiple
        if self.batch_size % multiple or not self.batch_size:
            raise ConfigError(
                f"a batch of {min(batch_size, length)} does not divide by {multiple}: the processes, times --accumulate, "
                f"times 2 where images are mixed in pairs; give a --batch-size that does, and {multiple} images at least"
            )
        self.length, self.seed, self.repeats = length, seed, repeats
        self.process, self.processes = process, processes
        self.epoch, self.first = 0, 0

    def __len__(self) -> int:
        """Batches of a whole epoch; the remainder is left to the next epoch's order."""
        return self.length // self.batch_size

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length).tolist()
        keys = [(self.epoch, index, repeat) for index in order for repeat in range(self.repeats)]
        for batch in range(self.first, len(self)):
            yield keys[batch * self.batch_size : (batch + 1) * self.batch_size][self.process :: self.processes]
