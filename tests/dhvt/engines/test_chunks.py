import numpy as np
import pytest

from dhvt.engines.chunks import run_in_chunks


@pytest.mark.parametrize(
    ("count", "smallest", "largest", "sizes"),
    [
        (5, 1, 8, [5]),
        (8, 1, 8, [8]),
        (9, 1, 8, [5, 4]),
        (20, 1, 8, [7, 7, 6]),
        (1, 4, 8, [4]),
        (9, 5, 8, [5, 5]),
        (3, 1, 1, [1, 1, 1]),
    ],
)
def test_a_batch_is_cut_to_what_the_runner_takes(count, smallest, largest, sizes):
    images = np.random.default_rng(0).integers(0, 256, (count, 2, 2, 3), dtype=np.uint8)
    buffer, seen = np.empty((largest, 2), np.float32), []

    def run(part):
        seen.append(len(part))
        buffer[: len(part)] = part.astype(np.float32).reshape(len(part), -1)[:, :2]
        return buffer[: len(part)]

    logits = run_in_chunks(run, images, smallest, largest)
    assert seen == sizes
    assert np.array_equal(logits, images.reshape(count, -1)[:, :2])
    assert not np.shares_memory(logits, buffer)
