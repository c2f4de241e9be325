import asyncio
import threading

import numpy as np
import pytest

from dhvt.artifact import load_artifact
from dhvt.preprocess import preprocess
from serving.engines import open_engine
from serving.errors import EngineFailed, InvalidImage
from serving.metrics import metrics
from serving.pipeline import Pipeline
from serving.predictions import rank
from tests.conftest import draw, encode


class Recording:
    """A real engine that notes its batch sizes, fails on a picture that is all white, and waits while it is held."""

    concurrency = 1
    preferred_batch_size: int | None = None

    def __init__(self, engine):
        self.engine, self.name, self.precision, self.batches = engine, engine.name, engine.precision, []
        self.called, self.free = threading.Event(), threading.Event()
        self.free.set()

    def predict(self, images):
        self.called.set()
        assert self.free.wait(30)
        self.batches.append(len(images))
        if (images == 255).all(axis=(1, 2, 3)).any():
            raise RuntimeError("white")
        return self.engine.predict(images)


@pytest.fixture(scope="module")
def artifact(artifact_path):
    return load_artifact(artifact_path)


@pytest.fixture
def engine(artifact):
    return Recording(open_engine(artifact, threads=1).engine)


@pytest.fixture(scope="module")
def pictures():
    return [encode(draw(seed % 3, seed)) for seed in range(50)]


WHITE = encode(draw(0, 0).point(lambda value: 255))
BROKEN = encode(draw(0, 0))[:100]


def classify(engine, artifact, pictures, *, max_batch_size=16, while_held=lambda tasks: None):
    """The rankings of all pictures, submitted while the engine is busy with one of its own; ``while_held`` runs when they
    are decoded, before it is free."""

    async def run():
        pipeline = Pipeline(
            engine, artifact.card, decoders=2, max_batch_size=max_batch_size, max_pixels=10**6, metrics=metrics()
        )
        engine.free.clear()
        first = asyncio.ensure_future(pipeline.classify(pictures[0]))
        await asyncio.to_thread(engine.called.wait, 30)
        tasks = [asyncio.ensure_future(pipeline.classify(picture)) for picture in pictures]
        while pipeline._decoded.qsize() < sum(picture is not BROKEN for picture in pictures):
            await asyncio.sleep(0.01)
        while_held(tasks)
        await asyncio.sleep(0)
        engine.free.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        await first
        await pipeline.close()
        return answers

    return asyncio.run(asyncio.wait_for(run(), 60))


def expect(engine, artifact, picture):
    return rank(engine.engine.predict(preprocess(picture, artifact.card.preprocess)[None]), artifact.card)[0]


def assert_same(ranking, expected):
    assert ranking.indices.tolist() == expected.indices.tolist()
    assert np.allclose(ranking.scores, expected.scores, atol=1e-3)


def test_what_waits_becomes_the_next_batch_and_everyone_gets_their_own(engine, artifact, pictures):
    answers = classify(engine, artifact, pictures)
    assert engine.batches == [1, 16, 16, 16, 2]
    for picture, answer in zip(pictures, answers, strict=True):
        assert_same(answer, expect(engine, artifact, picture))


def test_an_engine_that_raises_fails_that_batch_and_the_next_works(engine, artifact, pictures):
    answers = classify(engine, artifact, [*pictures[:5], WHITE, *pictures[5:]])
    failed = [isinstance(answer, EngineFailed) for answer in answers]
    assert sum(failed) == 16
    assert failed[5]
    for picture, answer in zip([*pictures[:5], WHITE, *pictures[5:]], answers, strict=True):
        if not isinstance(answer, EngineFailed):
            assert_same(answer, expect(engine, artifact, picture))


def test_a_broken_picture_spoils_nothing(engine, artifact, pictures):
    answers = classify(engine, artifact, [*pictures[:15], BROKEN, *pictures[15:30]])
    assert isinstance(answers.pop(15), InvalidImage)
    for picture, answer in zip(pictures[:30], answers, strict=True):
        assert_same(answer, expect(engine, artifact, picture))


def test_no_call_is_larger_than_the_engine_prefers(engine, artifact, pictures):
    engine.preferred_batch_size = 4
    assert len(classify(engine, artifact, pictures[:10])) == 10
    assert engine.batches == [1, 4, 4, 2]


def test_a_request_that_was_given_up_takes_no_place(engine, artifact, pictures):
    def give_up(tasks):
        for task in tasks[4:7]:
            task.cancel()

    answers = classify(engine, artifact, pictures[:8], max_batch_size=4, while_held=give_up)
    assert [isinstance(answer, asyncio.CancelledError) for answer in answers] == [False] * 4 + [True] * 3 + [False]
    assert sum(engine.batches) == 1 + 5


def test_an_idle_engine_starts_at_once(engine, artifact, pictures):
    async def run():
        pipeline = Pipeline(engine, artifact.card, decoders=2, max_batch_size=16, max_pixels=10**6, metrics=metrics())
        for picture in pictures[:3]:
            await pipeline.classify(picture)
            assert pipeline.oldest_wait_s() == 0
        await pipeline.close()

    asyncio.run(run())
    assert engine.batches == [1, 1, 1]
