"""The engines are measured after the first start, in a process beside the server, and the fastest takes over."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from dhvt.engines import Candidate
from dhvt.errors import DHVTError, EngineError
from serving.inference.model import check_model
from serving.inference.reload import ModelManager
from serving.settings import Settings

logger = logging.getLogger("bentoml.service.dhvt")

_LONGEST_WAIT_S = 60
"""Seconds until the engines are measured although images wait for this server."""

_LOGGED_CHARACTERS = 2000
_POLLED_EVERY_S = 0.2


class EngineMeasuring:
    """Measures the engines of each model that comes to serve, one model at a time.

    Args:
        settings, device: of this process.
        manager: of the model.
        tell_siblings: asks the other workers to reload too.
    """

    def __init__(self, settings: Settings, device: int, manager: ModelManager, tell_siblings: Callable[[], None]) -> None:
        self._settings, self._device, self._manager, self._tell_siblings = settings, device, manager, tell_siblings
        self._task: asyncio.Task[None] | None = None
        self._is_in_vain = False

    def start(self) -> None:
        """Begins, and begins again whenever the model is replaced."""
        self._manager.on_change = self._begin
        self._begin()

    async def stop(self) -> None:
        """Ends the process that measures."""
        self._manager.on_change = lambda: None
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _begin(self) -> None:
        previous = self._task
        if previous is not None:
            previous.cancel()  # what it measures no longer serves
        self._task = asyncio.create_task(self.measure())

    async def measure(self) -> None:
        """Measures the engines unless they have been, and reloads the model, in every worker, where another is the fastest.

        Requests are answered meanwhile: the process has the least priority. Cancelling this ends it.
        """
        model = self._manager.current
        if model.choice.is_final or self._is_in_vain:
            return
        try:
            await _until_idle(self._manager)
            if not await _measure(model.artifact.path, self._settings, self._device):
                return
            candidates = await asyncio.get_running_loop().run_in_executor(None, check_model, self._settings, model.digest)
        except (DHVTError, OSError) as error:
            logger.warning("the engines could not be measured: %s", error)
            return
        if candidates and not any(candidate.speed for candidate in candidates):  # the process hands them over by the cache
            self._is_in_vain = True
            logger.warning("the engines' speeds cannot be kept: set XDG_CACHE_HOME to a folder that this server may write to")
            return
        # Another model may have been exported meanwhile: it serves after a reload, which nobody has asked for yet.
        if candidates and self._manager.current is model:
            self._adopt(candidates)

    def _adopt(self, candidates: tuple[Candidate, ...]) -> None:
        """Logs the figures, and reloads the model where another engine than the current one is the fastest."""
        model = self._manager.current
        current = f"{model.engine.name}:{model.engine.precision}"
        fastest = next(candidate for candidate in candidates if candidate.chosen)
        if fastest.name == current:
            for candidate in candidates:
                logger.info("engine %s", candidate.describe())
            self._manager.current = replace(model, choice=replace(model.choice, candidates=candidates))
            return
        if any(reason.startswith(f"{fastest.name}: ") for reason in model.choice.rejected):  # it would fail again, and again
            logger.warning("%s is the fastest, but has failed in this process: %s stays until a reload", fastest.name, current)
            return
        logger.info("the engines have been measured: %s takes over from %s", fastest.name, current)
        self._manager.reload_soon()
        self._tell_siblings()


async def _until_idle(manager: ModelManager) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(_LONGEST_WAIT_S):
            while not manager.current.scheduler.is_idle():
                await asyncio.sleep(1)


async def _measure(model: Path, settings: Settings, device: int) -> bool:
    """Runs :mod:`dhvt.engines.measure_process`.

    Returns:
        True, or False where it was told to end, as all processes of a server that stops are.

    Raises:
        EngineError: it failed.
    """
    numbers = (settings.engine_threads(), settings.max_batch_size, device)
    command = ["-m", "dhvt.engines.measure_process", str(model), settings.engine, *map(str, numbers)]
    root = str(Path(__file__).resolve().parents[2])  # BentoML takes a bento's own folder off sys.path after importing it
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, *filter(None, sys.path)])}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, *command], env=environment, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
        )
        try:
            while process.poll() is None:
                await asyncio.sleep(_POLLED_EVERY_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its probes too, which may outlive it
            process.wait()
        if process.returncode == -signal.SIGTERM:
            return False
        if process.returncode:
            errors.seek(0)
            words = errors.read().decode(errors="replace").strip()[-_LOGGED_CHARACTERS:]
            raise EngineError(f"the process ended with {process.returncode}: {words}")
        return True
