import asyncio
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from dhvt.assessment import Assessor
from dhvt.data.preprocess import preprocess_image
from dhvt.engines import Choice
from dhvt.ranking import Ranking, rank
from serving.errors import EngineFailed, InternalError, InvalidImage, Overloaded
from serving.inference.model import UNHEALTHY_AFTER, ServedModel
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


class FailingOnce:
    """A metric that cannot be counted the first time, as on a full disk."""

    def __init__(self, metric):
        self.metric, self.has_failed = metric, False

    def __getattr__(self, name):
        if not self.has_failed:
            self.has_failed = True
            raise OSError("no space left on device")
        return getattr(self.metric, name)


@pytest.mark.parametrize("metric", ["decode_seconds", "images", "batch_size"])
def test_the_threads_outlive_what_fails_outside_decoding_and_engine(engine, artifact, images, metric):
    async def run():
        failing = SimpleNamespace(**vars(metrics()), observe_batch=metrics().observe_batch)
        setattr(failing, metric, FailingOnce(getattr(failing, metric)))
        if metric == "batch_size":
            failing.observe_batch = lambda *images: failing.batch_size.observe(1)
        scheduler = Scheduler(engine, artifact.card, decoders=1, max_batch_size=4, max_pixels=10**6, metrics=failing)
        outcomes = await asyncio.gather(*map(scheduler.submit, images[:8]), return_exceptions=True)
        last = await scheduler.submit(images[0])
        is_alive = scheduler.is_alive()
        await scheduler.close()
        return outcomes, last, is_alive

    outcomes, last, is_alive = asyncio.run(asyncio.wait_for(run(), 60))
    assert is_alive
    assert_same(last, expect(engine, artifact, images[0]))
    assert all(isinstance(outcome, (Ranking, InternalError)) for outcome in outcomes)


def test_a_chunk_behind_a_batch_that_fails_unexpectedly_is_computed(engine, artifact, images):
    def fail(*arguments):
        raise OSError("no space left on device")

    async def run():
        failing = SimpleNamespace(**vars(metrics()), observe_batch=fail)
        scheduler = Scheduler(engine, artifact.card, decoders=1, max_batch_size=4, max_pixels=10**6, metrics=failing)
        engine.free.clear()
        first = scheduler.submit(images[0])
        await asyncio.to_thread(engine.called.wait, 30)
        second = scheduler.submit(images[1])
        while scheduler._decoded.qsize() < 1:
            await asyncio.sleep(0.01)
        pixels = preprocess_image(images[2], artifact.card.preprocess)[None]
        chunk = scheduler.run(pixels)
        engine.free.set()
        logits = await chunk
        await asyncio.gather(first, second, return_exceptions=True)
        await scheduler.close()
        return pixels, logits

    pixels, logits = asyncio.run(asyncio.wait_for(run(), 60))
    assert np.allclose(logits, engine.engine.predict(pixels), atol=1e-3)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ended_makes_the_server_unready(engine, artifact, images):
    async def run():
        scheduler = Scheduler(engine, artifact.card, decoders=1, max_batch_size=4, max_pixels=10**6, metrics=metrics())
        model = ServedModel(artifact, Choice(engine=engine, rejected=()), scheduler, 30, Assessor(artifact, engine.precision))
        before = await model.is_healthy()
        engine.predict = lambda images: sys.exit()
        scheduler.submit(images[0])
        while scheduler.is_alive():
            await asyncio.sleep(0.01)
        return before, await model.is_healthy()

    assert asyncio.run(asyncio.wait_for(run(), 60)) == (True, False)


def test_an_engine_that_recovers_is_healthy_again_and_the_trial_counts_nowhere(engine, artifact, images):
    predict, observed = engine.predict, []

    def fail(images):
        raise RuntimeError("out of memory")

    async def run():
        scheduler = Scheduler(
            engine, artifact.card, decoders=1, max_batch_size=4, max_pixels=10**6, metrics=metrics(), observe=observed.append
        )
        model = ServedModel(artifact, Choice(engine=engine, rejected=()), scheduler, 30, Assessor(artifact, engine.precision))
        engine.predict = fail
        for image in images[:UNHEALTHY_AFTER]:
            with pytest.raises(EngineFailed):
                await scheduler.submit(image)
        before = count()
        failing = await model.is_healthy()
        engine.predict = predict
        healthy = await model.is_healthy()
        engine.predict = fail
        untried = await model.is_healthy()  # it has not failed again yet
        await scheduler.close()
        return failing, healthy, untried, count() - before

    def count():
        samples = [sample for metric in metrics().images.collect() for sample in metric.samples]
        return sum(sample.value for sample in samples if sample.name.endswith("_total"))

    assert asyncio.run(asyncio.wait_for(run(), 60)) == (False, True, True, 0)
    assert not observed


def test_logits_that_are_not_finite_are_an_error_of_that_image_alone(engine, artifact, images):
    predict = engine.engine.predict
    white = preprocess_image(WHITE, artifact.card.preprocess)

    class Overflowing:
        concurrency, preferred_batch_size = 1, None

        def predict(self, batch):
            logits = predict(batch)
            logits[(batch == white).all(axis=(1, 2, 3))] = np.nan
            return logits

    async def run(sent):
        scheduler = Scheduler(Overflowing(), artifact.card, decoders=2, max_batch_size=16, max_pixels=10**6, metrics=metrics())
        outcomes = await asyncio.gather(*map(scheduler.submit, sent), return_exceptions=True)
        await scheduler.close()
        return outcomes, scheduler.failures_in_a_row

    outcomes, _ = asyncio.run(run([*images[:5], WHITE, *images[5:10]]))
    assert isinstance(outcomes.pop(5), EngineFailed)
    for image, outcome in zip(images[:10], outcomes, strict=True):
        assert_same(outcome, expect(engine, artifact, image))
    outcomes, failures = asyncio.run(run([WHITE]))
    assert isinstance(outcomes[0], EngineFailed)
    assert failures == 1


def test_an_image_that_is_being_decoded_waits_for_nothing(engine, artifact, images, monkeypatch):
    """A slow one would else have the server refuse others, which three more threads decode."""
    started, may_end = threading.Event(), threading.Event()

    def decode(data, *args, **options):
        if data == BROKEN:
            started.set()
            may_end.wait(30)
            raise MemoryError
        return preprocess_image(data, *args, **options)

    monkeypatch.setattr("serving.inference.scheduler.preprocess_image", decode)

    async def run():
        scheduler = Scheduler(engine, artifact.card, decoders=2, max_batch_size=16, max_pixels=10**6, metrics=metrics())
        slow = scheduler.submit(BROKEN)
        await asyncio.to_thread(started.wait, 30)
        await scheduler.submit(images[0])
        assert scheduler.oldest_wait_s() == 0
        before = metrics().images.labels("internal_error")._value.get()
        may_end.set()
        with pytest.raises(InternalError):
            await slow
        assert metrics().images.labels("internal_error")._value.get() == before + 1
        await scheduler.close()
        with pytest.raises(Overloaded, match="has been replaced"):
            scheduler.submit(images[0])

    asyncio.run(asyncio.wait_for(run(), 60))


def test_the_wait_of_a_requests_many_images_is_not_counted(engine, artifact, images):
    def counted():
        return sum(bucket.get() for bucket in metrics().queue_seconds._buckets)

    async def run():
        scheduler = Scheduler(engine, artifact.card, decoders=2, max_batch_size=16, max_pixels=10**6, metrics=metrics())
        before = counted()
        await scheduler.submit(images[0], is_of_batch=True)
        await scheduler.submit(images[0])
        await scheduler.close()
        return counted() - before

    assert asyncio.run(asyncio.wait_for(run(), 60)) == 1
