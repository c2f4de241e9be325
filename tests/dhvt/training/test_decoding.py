"""Validation images are decoded once where they fit, else always by the same processes."""

import numpy as np
import pytest

from dhvt.data import batches
from dhvt.data.preprocess import Preprocess
from dhvt.data.sources import open_dataset
from dhvt.training import decoding
from dhvt.training.decoding import DecodedSource

PREPROCESS = Preprocess(size=(8, 8))


@pytest.mark.parametrize(("keep", "times"), [(True, 1), (False, 2)])
def test_images_that_are_kept_are_decoded_once(image_folder, monkeypatch, keep, times):
    source, decoded = open_dataset(image_folder), []
    monkeypatch.setattr(decoding, "read_pixels", lambda *at: decoded.append(at[2]) or batches.read_pixels(*at))
    images = DecodedSource(source, PREPROCESS, 0, keep=keep)
    assert next(iter(images)).shape == (8, 8, 3)  # one who stops early
    decoded.clear()
    first, second = list(images), list(images)
    assert len(decoded) == times * len(source)
    assert all(np.array_equal(*pair) for pair in zip(first, second, strict=True))


def test_processes_that_decode_live_on(image_folder):
    images = DecodedSource(open_dataset(image_folder), PREPROCESS, 1)
    expected = list(DecodedSource(open_dataset(image_folder), PREPROCESS, 0))
    processes = []
    for _ in range(2):
        assert all(np.array_equal(*pair) for pair in zip(images, expected, strict=True))
        processes.append([worker.pid for worker in images._loader._iterator._workers])
    assert processes[0] == processes[1]
