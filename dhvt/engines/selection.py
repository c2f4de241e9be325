"""The choice of an engine: the fastest that passes its probe and self-test and costs no more accuracy than it may."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

from dhvt.artifact import Artifact
from dhvt.engines.accuracy import accuracy_cost
from dhvt.engines.base import Engine, EngineOptions
from dhvt.engines.probe import probe, recall, recall_compiled
from dhvt.engines.ranking import NOISE, Candidate, rank, speeds_are_known
from dhvt.engines.registry import ENGINES, build_engine, find_precisions
from dhvt.engines.selftest import self_test
from dhvt.engines.settings import PREFERENCES
from dhvt.errors import EngineError, EngineUnavailable

logger = logging.getLogger(__name__)

NOT_MEASURED = "not measured yet"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The engine that was chosen, and why the others were not.

    Args:
        engine: has passed its self-test on this machine.
        rejected: ``candidate: reason`` of those that fail or cost too much accuracy, in the order in which they were tried.
        candidates: all of them, the chosen one too.
    """

    engine: Engine
    rejected: tuple[str, ...] = ()
    candidates: tuple[Candidate, ...] = ()

    @property
    def is_final(self) -> bool:
        """Whether every candidate that could serve has been measured; False where one of them may be faster."""
        others = [entry for entry in self.candidates if not entry.chosen and (entry.speed or entry.reason == NOT_MEASURED)]
        could_serve = [entry for entry in self.candidates if entry.chosen or entry in others]
        return not others or all(entry.speed is not None for entry in could_serve)


def open_engine(
    artifact: Artifact,
    name: str = "auto",
    *,
    threads: int,
    max_batch_size: int = 64,
    device: int = 0,
    prefer: str = PREFERENCES[0],
) -> Choice:
    """Makes the engine and tests it; the self-test is the warm-up too.

    Until the candidates have been measured (see :func:`measure_engines`), that is the one that is expected to be the fastest.

    Args:
        artifact: a verified model folder.
        name: a key of :data:`ENGINES`, one with a precision such as ``openvino:fp32``, or ``auto`` for the fastest.
        threads, max_batch_size, device: see :class:`EngineOptions`.
        prefer: see :class:`EngineSettings`.

    Raises:
        EngineError: the engine asked for, or with ``auto`` every engine, is missing or fails.
    """
    options = EngineOptions(threads=threads, max_batch_size=max_batch_size, device=device)
    search = _Search(artifact, name, options, prefer)
    for candidate in search.passing():
        try:
            engine = build_engine(artifact, candidate.name, options, recall_compiled(artifact, candidate.name, options))
            self_test(engine, artifact, (1, max_batch_size))
        except EngineError as error:
            search.reject(candidate, error)
        else:
            return Choice(engine=engine, rejected=tuple(search.rejected), candidates=search.table(candidate))
    raise search.no_engine()


def check_engine(
    artifact: Artifact,
    name: str,
    *,
    threads: int,
    max_batch_size: int,
    device: int = 0,
    prefer: str = PREFERENCES[0],
) -> tuple[Candidate, ...]:
    """Checks that :func:`open_engine` will find an engine, without loading it into this process.

    Returns:
        The candidates, of which the one that :func:`open_engine` will choose first is marked.

    Raises:
        EngineError: it will not.
    """
    search = _Search(artifact, name, EngineOptions(threads=threads, max_batch_size=max_batch_size, device=device), prefer)
    best = next(search.passing(), None)
    if best is None:
        raise search.no_engine()
    return search.table(best)


def measure_engines(artifact: Artifact, name: str, *, threads: int, max_batch_size: int, device: int = 0) -> None:
    """Probes and measures every candidate that :func:`open_engine` could choose, so that it will take the fastest.

    Raises:
        EngineError: there is no engine of this name.
    """
    options = EngineOptions(threads=threads, max_batch_size=max_batch_size, device=device)
    search = _Search(artifact, name, options, PREFERENCES[0])
    for candidate in search.possible():
        try:
            probe(artifact, candidate.name, options, measure=True)
        except EngineError as error:
            search.reject(candidate, error)


class _Search:
    """One pass over the candidates that a name allows."""

    def __init__(self, artifact: Artifact, name: str, options: EngineOptions, prefer: str) -> None:
        self.artifact, self.options, self.prefer = artifact, options, prefer
        self.runtime, _, self.precision = name.partition(":")
        self.rejected: list[str] = []
        self._by_speed = False
        self._known: dict[str, Candidate] = {}  # by name, in the order in which they are expected to be fast
        if self.runtime not in ("auto", *ENGINES) or (self.runtime == "auto" and self.precision):
            raise EngineError(f"no engine {name!r}; choose auto or one of {', '.join(ENGINES)}, as openvino or openvino:fp32")

    def possible(self) -> Iterator[Candidate]:
        """Those that are not excluded before they are run, expected fastest first."""
        for engine in ENGINES if self.runtime == "auto" else [self.runtime]:
            try:
                precisions = find_precisions(self.artifact, engine)
            except EngineError as error:
                level = logging.INFO if isinstance(error, EngineUnavailable) else logging.WARNING
                self.reject(Candidate(engine=engine), error, level)
                continue
            for precision in [self.precision] if self.precision else precisions:
                cost = accuracy_cost(self.artifact.card, f"{engine}:{precision}")
                candidate = Candidate(engine=engine, precision=precision, cost=cost, reason=NOT_MEASURED)
                if not (self.precision or cost.is_within_bound):
                    loss = f"costs {cost.top1_loss:.2f} points of top-1, more than the {cost.bound:g} allowed"
                    self.reject(candidate, EngineError(loss))
                    continue
                self._known[candidate.name] = candidate
                yield candidate

    def passing(self) -> Iterator[Candidate]:
        """Those that pass their probe, best first. Of those that nothing is remembered of, no more are probed than needed."""
        passed: list[Candidate] = []
        later: list[Candidate] = []
        for candidate in self.possible():
            if passed and recall(self.artifact, candidate.name, self.options) is None:
                later.append(candidate)
            elif found := self._probe(candidate):
                passed.append(found)
        self._by_speed = speeds_are_known(passed)
        yield from rank(passed, self.prefer)
        for candidate in later:
            if found := self._probe(candidate):
                yield found

    def _probe(self, candidate: Candidate) -> Candidate | None:
        try:
            speed = probe(self.artifact, candidate.name, self.options)
        except EngineError as error:
            self.reject(candidate, error)
            return None
        self._known[candidate.name] = replace(candidate, speed=speed)
        return self._known[candidate.name]

    def reject(self, candidate: Candidate, error: EngineError, level: int = logging.WARNING) -> None:
        """Records and logs why a candidate does not serve."""
        reason = " ".join(str(error).split())  # runtimes write several lines
        logger.log(level, "engine %s does not serve: %s", candidate.name, reason)
        self.rejected.append(f"{candidate.name}: {reason}")
        self._known[candidate.name] = replace(candidate, reason=reason)

    def table(self, chosen: Candidate) -> tuple[Candidate, ...]:
        """All candidates with the reason of each."""
        return tuple(self._explain(entry, chosen) for entry in self._known.values())

    def _explain(self, entry: Candidate, chosen: Candidate) -> Candidate:
        if entry.name == chosen.name:
            return replace(entry, chosen=True, reason=self._why_chosen(entry))
        if entry.reason != NOT_MEASURED or entry.speed is None:
            return entry
        return replace(entry, reason="slower, or as fast and less exact" if self._by_speed else "expected to be slower")

    def _why_chosen(self, entry: Candidate) -> str:
        if self.precision:
            return "it was asked for"
        if entry.speed is None or not self._by_speed:
            return "expected to be the fastest"
        return f"the fastest by {self.prefer}, or within {NOISE:.0%} of it and more exact"

    def no_engine(self) -> EngineError:
        """The error where none passes."""
        return EngineError("no engine can serve this model here; " + "; ".join(self.rejected))
