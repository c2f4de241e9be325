import asyncio

import numpy as np

from dhvt.data.preprocess import preprocess_image
from dhvt.ranking import rank
from serving.http.errors import EngineFailed, InvalidImage
from serving.inference.scheduler import Scheduler
from serving.metrics import metrics
from tests.conftest import draw, encode

WHITE = encode(draw(0, 0).point(lambda value: 255))
BROKEN = encode(draw(0, 0))[:100]


def classify(engine, artifact, images, *, max_batch_size=16, while_held=lambda tasks: None):
    """The rankings of all images, submitted while the engine is busy with one of its own; ``while_held`` runs when they
    are decoded, before it is free."""

    async def run():
        scheduler = Scheduler(
            engine, artifact.card, decoders=2, max_batch_size=max_batch_size, max_pixels=10**6, metrics=metrics()
        )
        engine.free.clear()
        first = scheduler.submit(images[0])
        await asyncio.to_thread(engine.called.wait, 30)
        tasks = [scheduler.submit(image) for image in images]
        while scheduler._decoded.qsize() < sum(image is not BROKEN for image in images):
            await asyncio.sleep(0.01)
        while_held(tasks)
        await asyncio.sleep(0)
        engine.free.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        await first
        await scheduler.close()
        return answers

    return asyncio.run(asyncio.wait_for(run(), 60))


def expect(engine, artifact, image):
    return rank(engine.engine.predict(preprocess_image(image, artifact.card.preprocess)[None]), artifact.card)[0]


def assert_same(ranking, expected):
    assert ranking.indices.tolist() == expected.indices.tolist()
    assert np.allclose(ranking.scores, expected.scores, atol=1e-3)


def test_what_waits_becomes_the_next_batch_and_everyone_gets_their_own(engine, artifact, images):
    answers = classify(engine, artifact, images)
    assert engine.batches == [1, 16, 16, 16, 2]
    for image, answer in zip(images, answers, strict=True):
        assert_same(answer, expect(engine, artifact, image))


def test_an_engine_that_raises_fails_that_batch_and_the_next_works(engine, artifact, images):
    answers = classify(engine, artifact, [*images[:5], WHITE, *images[5:]])
    failed = [isinstance(answer, EngineFailed) for answer in answers]
    assert sum(failed) == 16
    assert failed[5]
    for image, answer in zip([*images[:5], WHITE, *images[5:]], answers, strict=True):
        if not isinstance(answer, EngineFailed):
            assert_same(answer, expect(engine, artifact, image))


def test_a_broken_image_spoils_nothing(engine, artifact, images):
    answers = classify(engine, artifact, [*images[:15], BROKEN, *images[15:30]])
    assert isinstance(answers.pop(15), InvalidImage)
    for image, answer in zip(images[:30], answers, strict=True):
        assert_same(answer, expect(engine, artifact, image))


def test_no_call_is_larger_than_the_engine_prefers(engine, artifact, images):
    engine.preferred_batch_size = 4
    assert len(classify(engine, artifact, images[:10])) == 10
    assert engine.batches == [1, 4, 4, 2]


def test_a_request_that_was_given_up_takes_no_place(engine, artifact, images):
    def give_up(tasks):
        for task in tasks[4:7]:
            task.cancel()

    answers = classify(engine, artifact, images[:8], max_batch_size=4, while_held=give_up)
    assert [isinstance(answer, asyncio.CancelledError) for answer in answers] == [False] * 4 + [True] * 3 + [False]
    assert sum(engine.batches) == 1 + 5


def test_an_idle_engine_starts_at_once(engine, artifact, images):
    async def run():
        scheduler = Scheduler(engine, artifact.card, decoders=2, max_batch_size=16, max_pixels=10**6, metrics=metrics())
        for image in images[:3]:
            await scheduler.submit(image)
            assert scheduler.oldest_wait_s() == 0
        await scheduler.close()

    asyncio.run(run())
    assert engine.batches == [1, 1, 1]
