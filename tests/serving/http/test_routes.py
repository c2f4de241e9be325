"""What requests share, with an engine that waits while it is held."""

import asyncio
from contextlib import asynccontextmanager

from dhvt.engines import Choice
from serving.http.routes import Handlers
from serving.inference.model import Classifier
from serving.inference.scheduler import Pipeline
from serving.metrics import metrics
from serving.settings import Settings
from serving.uploads.image import UploadedImage

REQUESTS, MAX_BATCH_SIZE = 5, 2


@asynccontextmanager
async def serving(engine, artifact, *, request_timeout_s=30):
    pipeline = Pipeline(engine, artifact.card, decoders=1, max_batch_size=MAX_BATCH_SIZE, max_pixels=10**6, metrics=metrics())
    classifier = Classifier(artifact, Choice(engine=engine, rejected=()), pipeline, request_timeout_s)
    yield Handlers(Settings(max_batch_size=MAX_BATCH_SIZE), classifier)
    engine.free.set()
    await classifier.close()


def test_batches_share_what_may_wait_and_each_comes_to_its_end(engine, artifact, images):
    async def upload():
        for number, image in enumerate(images):
            yield UploadedImage(str(number), image)

    async def collect(handlers):
        return [result["name"] async for result in handlers._classify_in_order(upload(), top_k=1)]

    async def run():
        async with serving(engine, artifact) as handlers:
            engine.free.clear()
            tasks = [asyncio.create_task(collect(handlers)) for _ in range(REQUESTS)]
            await asyncio.to_thread(engine.called.wait, 30)
            await asyncio.sleep(0.2)
            waiting = len(handlers.classifier.pipeline._pending)
            engine.free.set()
            return waiting, await asyncio.gather(*tasks)

    waiting, names = asyncio.run(asyncio.wait_for(run(), 60))
    assert 4 * MAX_BATCH_SIZE <= waiting <= 4 * MAX_BATCH_SIZE + REQUESTS
    assert names == [[str(number) for number in range(len(images))]] * REQUESTS


def test_an_engine_that_hangs_is_not_healthy(engine, artifact, images):
    async def run():
        async with serving(engine, artifact, request_timeout_s=0) as handlers:
            classifier = handlers.classifier
            before = await classifier.is_healthy()
            engine.free.clear()
            task = asyncio.create_task(classifier.pipeline.classify(images[0]))
            await asyncio.to_thread(engine.called.wait, 30)
            during = await classifier.is_healthy()
            engine.free.set()
            await task
            while classifier.pipeline.longest_call_s():
                await asyncio.sleep(0.01)
            return before, during, await classifier.is_healthy()

    assert asyncio.run(asyncio.wait_for(run(), 60)) == (True, False, True)
