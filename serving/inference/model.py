"""One loaded model: what a reload replaces."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dhvt.artifact import Artifact
from dhvt.assessment import Assessor
from dhvt.data.preprocess import preprocess_image
from dhvt.engines import Candidate, Choice, Engine, check_engine, open_engine
from dhvt.errors import ConfigError
from dhvt.explanation.explainer import Explainer
from dhvt.hardware.cpus import available_cpus
from dhvt.ranking import Ranking
from serving.errors import BadRequest, RequestError
from serving.inference.options import AnswerOptions
from serving.inference.scheduler import Observe, Scheduler, ignore
from serving.metrics import metrics
from serving.settings import Settings

logger = logging.getLogger("bentoml.service.dhvt")

UNHEALTHY_AFTER = 3
"""Inference batches that fail in a row until the server reports that it is not ready."""


@dataclass(frozen=True)
class ServedModel:
    """A verified artifact, the engine that was chosen to run it, the scheduler that feeds the engine, and the assessor of what
    its answers are worth."""

    artifact: Artifact
    choice: Choice
    scheduler: Scheduler
    request_timeout_s: int
    assessor: Assessor

    @property
    def engine(self) -> Engine:
        """The engine that runs it."""
        return self.choice.engine

    @cached_property
    def identity(self) -> dict[str, str]:
        """Which model this is, as responses name it; :attr:`digest` tells it from any other."""
        return {"model": self.artifact.card.name, "version": self.artifact.card.version}

    @cached_property
    def digest(self) -> str:
        """The artifact's digest, computed once."""
        return self.artifact.digest

    @cached_property
    def explainer(self) -> Explainer:
        """Makes maps of what its answers depend on; on half of the processor, for images that are classified meanwhile."""
        return Explainer(self.artifact, threads=max(available_cpus() // 2, 1))

    @classmethod
    async def load(
        cls,
        settings: Settings,
        device: int = 0,
        opened: Future[tuple[Artifact, Choice]] | None = None,
        watch: Callable[[Artifact, str], Observe] = lambda artifact, precision: ignore,
    ) -> ServedModel:
        """Opens the model that ``settings.model`` names, and proves it.

        Args:
            device: index of the GPU that an engine on one takes, among the visible ones.
            opened: of :func:`serving.inference.early.take_opened`, for the first model of a worker.
            watch: see :meth:`serving.inference.drift.DriftMonitor.watch`.

        Raises:
            ArtifactError, EngineError: it cannot be served here.
        """
        loop = asyncio.get_running_loop()
        if opened is None:
            artifact, choice = await loop.run_in_executor(None, open_model, settings, device)
        else:
            artifact, choice = await asyncio.wrap_future(opened)
        card, engine = artifact.card, choice.engine
        # Both read the reference, which takes up to half a second; requests are answered meanwhile.
        assessor = await loop.run_in_executor(None, Assessor, artifact, engine.precision)
        observe = await loop.run_in_executor(None, watch, artifact, engine.precision)
        scheduler = Scheduler(
            engine,
            card,
            decoders=max(available_cpus() // settings.workers, 1),
            max_batch_size=settings.max_batch_size,
            max_pixels=settings.max_pixels,
            metrics=metrics(),
            observe=observe,
        )
        model = cls(artifact, choice, scheduler, settings.request_timeout_s, assessor)
        model.announce(1)
        for candidate in choice.candidates:
            logger.info("engine %s", candidate.describe())
        logger.info(
            "serving %s %s from %s, digest %s, %d classes, with %s in %s",
            card.name, card.version, artifact.path, model.digest, len(card.classes), engine.name, engine.precision,
        )  # fmt: skip
        return model

    def require(self, options: AnswerOptions) -> None:
        """Raises BadRequest where the model cannot answer what is asked beside the predictions."""
        try:
            self.assessor.require(options.asked)
        except ConfigError as error:
            raise BadRequest(str(error)) from None

    def answer(self, ranking: Ranking, options: AnswerOptions) -> dict[str, Any]:
        """One image's answer: its predictions, and what else is asked for."""
        answer: dict[str, Any] = {"predictions": ranking.top(self.artifact.card, options.top_k)}
        return answer | self.assessor.assess(ranking, options.asked) if options.asked else answer

    async def close(self) -> None:
        """Answers what was accepted, then ends the threads."""
        await self.scheduler.close()
        self.announce(0)

    def hangs(self) -> bool:
        """Whether an engine call takes longer than a request may."""
        return self.scheduler.longest_call_s() > self.request_timeout_s

    async def is_healthy(self) -> bool:
        """Whether the engine works; after :data:`UNHEALTHY_AFTER` failed batches in a row, an image of the
        self-test is tried, which no metric and no test for drift counts.

        An engine that hangs does not work: a call should take much less time than a request may. Neither does a scheduler
        of which a thread has ended.
        """
        if not self.scheduler.is_alive() or self.hangs():
            return False
        if self.scheduler.failures_in_a_row < UNHEALTHY_AFTER:
            return True
        card = self.artifact.card
        pixels = preprocess_image(card.golden.encoded()[0], card.preprocess)
        try:
            async with asyncio.timeout(self.request_timeout_s / 2):  # or the request would end first, with 504
                await self.scheduler.run(pixels[None])
        except (RequestError, TimeoutError):
            return False
        self.scheduler.failures_in_a_row = 0
        return True

    def announce(self, value: int) -> None:
        """Sets whether the metrics show it as serving: 1 or 0."""
        engine = self.engine
        metrics().engine.labels(**self.identity, digest=self.digest, engine=engine.name, precision=engine.precision).set(value)


def _engine_options(settings: Settings) -> dict[str, Any]:
    threads = settings.engine_threads()
    return {"threads": threads, "max_batch_size": settings.max_batch_size, "prefer": settings.prefer}


def open_model(settings: Settings, device: int) -> tuple[Artifact, Choice]:
    """The model that ``settings.model`` names, and the engine that runs it."""
    artifact = settings.load_artifact()
    return artifact, open_engine(artifact, settings.engine, device=device, **_engine_options(settings))


def check_model(settings: Settings, digest: str | None = None) -> tuple[Candidate, ...]:
    """Checks that :meth:`ServedModel.load` will succeed, without loading the model into this process.

    Args:
        digest: the only model that is checked; None for any.

    Returns:
        The engines; the one that it will take is marked. Empty where ``settings.model`` names a model with another digest.

    Raises:
        ArtifactError, EngineError: it will not.
    """
    artifact = settings.load_artifact()
    if digest not in (None, artifact.digest):
        return ()
    return check_engine(artifact, settings.engine, **_engine_options(settings))
