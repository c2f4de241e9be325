"""What requests with several images share, with an engine that waits while it is held."""

import asyncio
from contextlib import asynccontextmanager

from dhvt.assessment import Assessor
from dhvt.engines import Choice
from serving.inference.model import ServedModel
from serving.inference.multi import MultiImageClassifier
from serving.inference.options import AnswerOptions
from serving.inference.scheduler import Scheduler
from serving.metrics import metrics
from serving.settings import Settings
from serving.uploads.image import UploadedImage

REQUESTS, MAX_BATCH_SIZE = 5, 2


@asynccontextmanager
async def serving(engine, artifact, *, request_timeout_s=30):
    scheduler = Scheduler(engine, artifact.card, decoders=1, max_batch_size=MAX_BATCH_SIZE, max_pixels=10**6, metrics=metrics())
    model = ServedModel(
        artifact, Choice(engine=engine, rejected=()), scheduler, request_timeout_s, Assessor(artifact, engine.precision)
    )
    yield model
    engine.free.set()
    await model.close()


async def classify(model, image):
    return await model.scheduler.submit(image)


def test_batches_share_what_may_wait_and_each_comes_to_its_end(engine, artifact, images):
    async def upload():
        for number, image in enumerate(images):
            yield UploadedImage(str(number), image)

    multi = MultiImageClassifier(Settings(max_batch_size=MAX_BATCH_SIZE))

    async def collect(model):
        return [result["name"] async for result in multi.classify(model, upload(), AnswerOptions(top_k=1))]

    async def run():
        async with serving(engine, artifact) as model:
            engine.free.clear()
            tasks = [asyncio.create_task(collect(model)) for _ in range(REQUESTS)]
            await asyncio.to_thread(engine.called.wait, 30)
            await asyncio.sleep(0.2)
            waiting = len(model.scheduler._pending)
            assert (model.scheduler.oldest_wait_s(), model.scheduler.is_idle()) == (0, False)  # which refuses nobody
            engine.free.set()
            return waiting, await asyncio.gather(*tasks)

    waiting, names = asyncio.run(asyncio.wait_for(run(), 60))
    assert 4 * MAX_BATCH_SIZE <= waiting <= 4 * MAX_BATCH_SIZE + REQUESTS
    assert names == [[str(number) for number in range(len(images))]] * REQUESTS


def test_an_engine_that_hangs_is_not_healthy(engine, artifact, images):
    async def run():
        async with serving(engine, artifact, request_timeout_s=0) as model:
            before = await model.is_healthy()
            engine.free.clear()
            task = asyncio.create_task(classify(model, images[0]))
            await asyncio.to_thread(engine.called.wait, 30)
            during = await model.is_healthy()
            engine.free.set()
            await task
            while model.scheduler.longest_call_s():
                await asyncio.sleep(0.01)
            return before, during, await model.is_healthy()

    assert asyncio.run(asyncio.wait_for(run(), 60)) == (True, False, True)
