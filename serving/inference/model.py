"""One loaded model: what a reload replaces."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from dhvt.artifact import Artifact, load_artifact
from dhvt.engines import Choice, Engine, check_engine, open_engine
from dhvt.hardware.cpus import available_cpus
from dhvt.ranking import Ranking
from serving.http.errors import RequestError
from serving.http.response import Answer, to_json
from serving.inference.scheduler import Pipeline
from serving.metrics import metrics
from serving.settings import Settings

logger = logging.getLogger("bentoml.service.dhvt")

UNHEALTHY_AFTER = 3
"""Batches that fail in a row until the server says that it is not ready."""


@dataclass(frozen=True)
class Classifier:
    """A verified artifact, the engine that was chosen to run it, and the pipeline that feeds the engine."""

    artifact: Artifact
    choice: Choice
    pipeline: Pipeline
    request_timeout_s: int

    @property
    def engine(self) -> Engine:
        return self.choice.engine

    @classmethod
    async def load(cls, settings: Settings) -> Classifier:
        """Opens what ``settings.model`` names, and proves it.

        Raises:
            ArtifactError, EngineError: it cannot be served here.
        """
        loop = asyncio.get_running_loop()
        artifact, choice = await loop.run_in_executor(None, _open, settings)
        card, engine = artifact.card, choice.engine
        pipeline = Pipeline(
            engine,
            card,
            decoders=max(available_cpus() // settings.workers, 1),
            max_batch_size=settings.max_batch_size,
            max_pixels=settings.max_pixels,
            metrics=metrics(),
        )
        classifier = cls(artifact, choice, pipeline, settings.request_timeout_s)
        classifier.announce(1)
        logger.info("serving %s, %d classes, with %s in %s", card.name, len(card.classes), engine.name, engine.precision)
        return classifier

    def answer(self, ranking: Ranking, top_k: int) -> Answer:
        """To who sent one image."""
        card = self.artifact.card
        return Answer(to_json({"model": card.name, "predictions": ranking.top(card, top_k)}))

    async def close(self) -> None:
        """Answers what was accepted, then ends the threads."""
        await self.pipeline.close()
        self.announce(0)

    async def is_healthy(self) -> bool:
        """Whether the engine works; one that failed :data:`UNHEALTHY_AFTER` batches in a row is tried once more.

        One that hangs does not: a call should take much less than a request may.
        """
        if self.pipeline.longest_call_s() > self.request_timeout_s:
            return False
        if self.pipeline.failures_in_a_row < UNHEALTHY_AFTER:
            return True
        try:
            async with asyncio.timeout(self.request_timeout_s):
                await self.pipeline.classify(self.artifact.card.golden.encoded()[0])
        except (RequestError, TimeoutError):
            return False
        return True

    def announce(self, value: int) -> None:
        """Counts it as serving, 1, or not, 0."""
        metrics().engine.labels(self.artifact.card.name, self.engine.name, self.engine.precision).set(value)


def _open(settings: Settings) -> tuple[Artifact, Choice]:
    artifact = load_artifact(settings.model_path())
    threads = settings.engine_threads()
    return artifact, open_engine(artifact, settings.engine, threads=threads, max_batch_size=settings.max_batch_size)


def check_model(settings: Settings) -> None:
    """Whether :meth:`Classifier.load` will succeed, without loading the model into this process.

    Raises:
        ArtifactError, EngineError: it will not.
    """
    artifact = load_artifact(settings.model_path())
    check_engine(artifact, settings.engine, threads=settings.engine_threads(), max_batch_size=settings.max_batch_size)
