"""Tests whether the images that a server gets are still of the kind that its model was measured on; one test in each worker.

Engine threads hand each batch's answers on. A thread tests them, and writes the test's state into a folder, where the other
workers find it, and this worker after a restart.
"""

from __future__ import annotations

import logging
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any
from zipfile import BadZipFile

import numpy as np

from dhvt.artifact import Artifact
from dhvt.confidence.drift import DriftTest
from dhvt.confidence.reference import load_reference
from dhvt.errors import ConfigError
from dhvt.files import replacing
from dhvt.ranking import Ranking
from serving.inference.drift_report import describe_drift, log_evidence_of
from serving.inference.scheduler import Observe, ignore
from serving.metrics import Metrics
from serving.private_apis import metrics_folder
from serving.settings import PREFIX, Settings

logger = logging.getLogger("bentoml.service.dhvt")

MOST_WAITING = 1000
"""Batches that wait to be tested, on a disk that hangs for example; further ones are not tested."""

_WRITE_EVERY_S = 1.0
_CLOSE_S = 5.0


@dataclass(frozen=True)
class _Watched:
    """One model in one precision; ``key`` identifies it and the settings of its test."""

    key: str
    precision: str
    classes: Sequence[str]
    make_test: Callable[[], DriftTest]


class DriftMonitor:
    """The test of one worker, and the report of all.

    Args:
        settings: of this process.
        worker: this one's number, from 1.
        folder: where the workers keep their states; it is made when one is written.
        metrics: where the evidence is shown.
    """

    def __init__(self, settings: Settings, worker: int, folder: Path, metrics: Metrics) -> None:
        self._settings, self._worker, self._folder, self._metrics = settings, worker, folder, metrics
        self._lock = Lock()  # of the four below
        self._watched: _Watched | None = None
        self._test: DriftTest | None = None
        self._is_written = True
        self._skipped = 0  # images since the last that counted
        self._queue: SimpleQueue[tuple[str, Sequence[Ranking]] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="drift", daemon=True)

    def watch(self, artifact: Artifact, precision: str) -> Observe:
        """Begins to test this model, or goes on where it is the same as before; returns what takes its answers.

        Nothing is tested where the artifact has no reference in this precision: scores differ between precisions, so that
        the bound on false alarms would not hold.

        Raises:
            ArtifactError: the reference cannot be read.
        """
        watched = self._find(artifact, precision)
        with self._lock:
            if watched is None or self._watched is None or watched.key != self._watched.key:
                self._watched = watched
                self._test = None if watched is None else self._read(watched, self._worker) or watched.make_test()
                self._show(0)
        if watched is None:
            return ignore
        if not self._thread.is_alive():
            self._thread.start()
        return partial(self._observe, watched.key)

    def _find(self, artifact: Artifact, precision: str) -> _Watched | None:
        settings, classes = self._settings, artifact.card.classes
        reference = load_reference(artifact) if settings.drift_every else None
        if reference is None:
            return None
        measured = reference.measured.get(precision)
        if measured is None:
            logger.warning("drift is not tested: the reference was not measured in %s; run dhvt calibrate here", precision)
            return None

        def make_test() -> DriftTest:
            alarm_at = settings.workers / settings.drift_false_alarm
            return DriftTest(measured.predicted, measured.top_score, len(classes), alarm_at=alarm_at, seed=self._worker)

        key = f"{artifact.digest} {precision} {settings.workers} {settings.drift_every} {settings.drift_false_alarm}"
        return _Watched(key, precision, classes, make_test)

    def _observe(self, key: str, rankings: Sequence[Ranking]) -> None:
        """Takes a batch's answers, in an engine's thread."""
        if self._queue.qsize() < MOST_WAITING:
            self._queue.put((key, rankings))

    def close(self) -> None:
        """Tests and writes what waits, for a few seconds at most."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(_CLOSE_S)

    def report(self) -> dict[str, Any] | None:
        """What all workers found, as ``GET /drift`` answers it; None where nothing is tested.

        The other workers' part is about a second old.
        """
        with self._lock:
            watched = self._watched
            if watched is None or self._test is None:
                return None
            own = watched.make_test()
            own.restore(self._test.state())
        workers = range(1, self._settings.workers + 1)
        others = (self._read(watched, worker) for worker in workers if worker != self._worker)
        tests = [own, *(test for test in others if test is not None)]
        return {"precision": watched.precision, **describe_drift(tests, watched.classes, self._settings)}

    def _run(self) -> None:
        """The thread. Whatever goes wrong with one batch, the next is taken."""
        due = 0.0
        while True:
            entry: tuple[str, Sequence[Ranking]] | None = ("", ())
            with suppress(Empty):
                entry = self._queue.get(timeout=None if self._is_written else max(due - time.monotonic(), 0))
            try:
                if entry is not None:
                    self._take(*entry)
                if not self._is_written and (entry is None or time.monotonic() >= due):
                    due = time.monotonic() + _WRITE_EVERY_S
                    self._write()
            except Exception:
                logger.exception("the test for drift failed unexpectedly")
            if entry is None:
                return

    def _take(self, key: str, rankings: Sequence[Ranking]) -> None:
        """Tests the answers of one batch, or the few of them that count."""
        every = self._settings.drift_every
        with self._lock:
            if self._watched is None or self._test is None or self._watched.key != key:
                return  # of a model that was replaced
            counted = rankings[(every - 1 - self._skipped) :: every]
            self._skipped = (self._skipped + len(rankings)) % every
            predicted = np.array([ranking.indices[0] for ranking in counted], np.int64)
            scores = np.array([ranking.scores[0] for ranking in counted], np.float64)
            had_alarm = self._test.alarm is not None
            tested = self._test.update(predicted, scores, time.time())
            self._is_written = False
            if tested:
                self._show(tested)
            if self._test.alarm is not None and not had_alarm:
                logger.warning("the images have changed; GET /drift says since when, and which classes")

    def _show(self, tested: int) -> None:
        """Sets the metrics."""
        test = self._test
        self._metrics.drift_images.inc(tested)
        evidence = 0.0 if test is None else log_evidence_of([test], self._settings.workers)
        self._metrics.drift_evidence.set(evidence / np.log(10))
        self._metrics.drift_alarm.set(test is not None and test.alarm is not None)

    def _path(self, worker: int) -> Path:
        return self._folder / f"worker-{worker}.npz"

    def _write(self) -> None:
        """Writes the state in one step."""
        with self._lock:
            self._is_written = True  # or a full disk would be tried without a pause
            if self._watched is None or self._test is None:
                return
            state, key = self._test.state(), self._watched.key
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing(self._path(self._worker)) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, key=np.array(key), **state)

    def _read(self, watched: _Watched, worker: int) -> DriftTest | None:
        """A worker's test as it wrote it last; None where it tested something else, or nothing."""
        try:
            with np.load(self._path(worker), allow_pickle=False) as file:
                state = dict(file)
            if str(state.pop("key", "")) != watched.key:
                return None
            test = watched.make_test()
            test.restore(state)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
            logger.warning("%s is not read: %s", self._path(worker), error)
            return None
        return test


def drift_folder(settings: Settings) -> Path:
    """Returns where the workers keep the states of their tests: the folder that is named, or else one of this server alone."""
    return Path(settings.drift_state or f"{metrics_folder()}/drift")


def prepare_drift_folder(settings: Settings) -> None:
    """Makes the folder in which the tests for drift keep their states, where one is named.

    Raises:
        ConfigError: it cannot be written to.
    """
    if not settings.drift_state:
        return
    folder = Path(settings.drift_state)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix="."):
            pass
    except OSError as error:
        raise ConfigError(
            f"{PREFIX}DRIFT_STATE is {str(folder)!r}, which cannot be written to: {error.strerror or error}"
        ) from error
