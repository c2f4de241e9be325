"""Batches of any size through a runner that takes only some."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def run_in_parts(
    run: Callable[[NDArray[np.uint8]], NDArray[np.float32]], images: NDArray[np.uint8], smallest: int, largest: int
) -> NDArray[np.float32]:
    """Cuts a batch into even parts of at most ``largest``; one below ``smallest`` is filled up with black images.

    Args:
        run: images ``(b, H, W, 3)``, smallest ≤ b ≤ largest, to logits ``(b, classes)``, which it may overwrite in its
            next call.
        images: ``(B, H, W, 3)`` uint8, any B ≥ 1.

    Returns:
        ``(B, classes)``, the caller's own.
    """
    rows = []
    for part in np.array_split(images, -(-len(images) // largest)):
        missing = max(smallest - len(part), 0)
        filled = np.concatenate([part, np.zeros((missing, *part.shape[1:]), part.dtype)]) if missing else part
        rows.append(run(filled)[: len(part)].copy())
    return np.concatenate(rows)
