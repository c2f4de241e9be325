"""Chunks of masked images between the images of other requests, and the queue of explanations."""

import asyncio

import numpy as np
import pytest

from dhvt.assessment import Assessor
from dhvt.engines import Choice
from dhvt.explanation.explainer import Question
from serving.errors import BadRequest, EngineFailed, Overloaded
from serving.inference.explanations import MOST_WAITING, ExplanationQueue
from serving.inference.model import ServedModel
from serving.inference.scheduler import Scheduler
from serving.metrics import metrics
from serving.settings import Settings

BLACK = np.zeros((4, 32, 32, 3), np.uint8)


def make(engine, artifact):
    scheduler = Scheduler(engine, artifact.card, decoders=1, max_batch_size=16, max_pixels=10**6, metrics=metrics())
    return ServedModel(artifact, Choice(engine=engine, rejected=()), scheduler, 30, Assessor(artifact, engine.precision))


async def submit_all(scheduler, images):
    """Waits until the engine has the first, and all others are decoded."""
    futures = [scheduler.submit(images[0])]
    while not scheduler.engine.called.is_set():
        await asyncio.sleep(0.001)
    futures += map(scheduler.submit, images[1:])
    while scheduler._decoded.qsize() < len(images) - 1:
        await asyncio.sleep(0.001)
    return futures


def test_a_chunk_is_one_call_between_what_came_before_and_after(engine, artifact, images):
    engine.free.clear()

    async def run():
        scheduler = make(engine, artifact).scheduler
        before = await submit_all(scheduler, images[:4])
        chunk = scheduler.run(BLACK)
        after = [scheduler.submit_preprocessed(BLACK[0]) for _ in range(2)]
        assert scheduler.oldest_wait_s() > 0
        engine.free.set()
        await asyncio.gather(*before, *after)
        logits = await chunk
        await scheduler.close()
        return logits

    logits = asyncio.run(asyncio.wait_for(run(), 60))
    assert engine.batches == [1, 3, 4, 2]
    assert np.allclose(logits, engine.engine.predict(BLACK), atol=1e-4)


def test_a_chunk_that_nobody_waits_for_is_left_out_and_one_that_fails_is_an_error(engine, artifact):
    async def run():
        scheduler = make(engine, artifact).scheduler
        engine.free.clear()
        first = scheduler.run(BLACK)
        while not engine.called.is_set():
            await asyncio.sleep(0.001)
        scheduler.run(BLACK).cancel()
        white = scheduler.run(np.full_like(BLACK, 255))
        engine.free.set()
        await first
        with pytest.raises(EngineFailed):
            await white
        await scheduler.close()

    asyncio.run(asyncio.wait_for(run(), 60))
    assert engine.batches == [4, 4]


def test_explanations_run_one_after_the_other_and_too_many_are_refused(engine, artifact, images):
    engine.free.clear()

    async def run():
        model, queue = make(engine, artifact), ExplanationQueue(Settings())
        asked = [asyncio.create_task(queue.explain(model, image, Question(masks=8))) for image in images[: MOST_WAITING + 2]]
        _, refused = await asyncio.wait_for(asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED), 30), asked[-1]
        with pytest.raises(Overloaded, match="8 requests wait"):
            await refused
        asked[1].cancel()
        engine.free.set()
        found = await asyncio.gather(*asked[:1], *asked[2:-1])
        await model.close()
        return found

    found = asyncio.run(asyncio.wait_for(run(), 60))
    assert len(found) == MOST_WAITING
    assert engine.batches == [1, 8] * MOST_WAITING


@pytest.mark.parametrize(
    ("most", "asked", "masks"), [("1000", None, 400), ("100", None, 100), ("100", 100, 100), ("100", 101, BadRequest)]
)
def test_the_number_of_masks_is_limited(engine, artifact, images, most, asked, masks):
    async def run():
        model = make(engine, artifact)
        queue = ExplanationQueue(Settings.from_environ({"DHVT_EXPLAIN_MASKS": most}))
        try:
            return (await queue.explain(model, images[0], Question(masks=asked))).masks
        except BadRequest as error:
            return type(error)
        finally:
            await model.close()

    assert asyncio.run(asyncio.wait_for(run(), 60)) == masks
