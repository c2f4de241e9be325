import asyncio

import numpy as np

from dhvt.preprocess import preprocess
from serving.errors import EngineFailed, InvalidImage
from serving.metrics import metrics
from serving.pipeline import Pipeline
from serving.predictions import rank
from tests.conftest import draw, encode

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
