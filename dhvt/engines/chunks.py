"""Batches of any size through a runner that takes only some sizes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def run_in_chunks(
    run: Callable[[NDArray[np.uint8]], NDArray[np.float32]], images: NDArray[np.uint8], smallest: int, largest: int
) -> NDArray[np.float32]:
    """Cuts a batch into even chunks of at most ``largest``; one below ``smallest`` is filled up with black images.

    Args:
        run: images ``(b, H, W, 3)``, smallest ≤ b ≤ largest, to logits ``(b, classes)``, which it may overwrite in its
            next call.
        images: ``(B, H, W, 3)`` uint8, any B ≥ 1.

    Returns:
        Logits ``(B, classes)``, which the caller may keep.
    """
    rows = []
    for chunk in np.array_split(images, -(-len(images) // largest)):
        missing = max(smallest - len(chunk), 0)
        filled = np.concatenate([chunk, np.zeros((missing, *chunk.shape[1:]), chunk.dtype)]) if missing else chunk
        rows.append(run(filled)[: len(chunk)].copy())
    return np.concatenate(rows)
