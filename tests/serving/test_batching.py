import asyncio

import numpy as np
import pytest
from serving.batching import Batcher

from dhvt.artifact import load_artifact
from serving.engines import open_engine
from serving.errors import EngineFailed


class Recording:
    """A real engine that notes its batch sizes, and fails on a picture that is all white."""

    def __init__(self, engine):
        self.engine, self.name, self.precision, self.batches = engine, engine.name, engine.precision, []

    def predict(self, images):
        self.batches.append(len(images))
        if (images == 255).all(axis=(1, 2, 3)).any():
            raise RuntimeError("white")
        return self.engine.predict(images)


@pytest.fixture
def engine(artifact_path):
    return Recording(open_engine(load_artifact(artifact_path), threads=1))


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)


def test_what_waits_becomes_the_next_batch_and_everyone_gets_their_own(engine, images):
    async def run():
        batcher = Batcher(engine, max_batch_size=16)
        return await asyncio.gather(*(batcher.predict(image) for image in images))

    logits = np.stack(asyncio.run(run()))
    assert engine.batches == [16, 16, 16, 2]
    assert np.allclose(logits, engine.engine.predict(images), atol=1e-4)


def test_an_engine_that_raises_fails_that_batch_and_the_next_works(engine, images):
    images[5] = 255

    async def run():
        batcher = Batcher(engine, max_batch_size=16)
        return await asyncio.gather(*(batcher.predict(image) for image in images), return_exceptions=True)

    answers = asyncio.run(run())
    assert all(isinstance(answer, EngineFailed) for answer in answers[:16])
    assert np.allclose(np.stack(answers[16:]), engine.engine.predict(images[16:]), atol=1e-4)


def test_a_request_that_was_given_up_takes_no_place(engine, images):
    async def run():
        batcher = Batcher(engine, max_batch_size=4)
        tasks = [asyncio.ensure_future(batcher.predict(image)) for image in images[:8]]
        await asyncio.sleep(0)
        for task in tasks[4:7]:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = asyncio.run(run())
    assert [isinstance(answer, asyncio.CancelledError) for answer in answers] == [False] * 4 + [True] * 3 + [False]
    assert sum(engine.batches) == 5
