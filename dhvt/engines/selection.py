"""The choice of an engine: the first that can run here and passes its probe and self-test."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from dhvt.artifact import Artifact
from dhvt.engines.base import Engine, EngineOptions
from dhvt.engines.probe import probe
from dhvt.engines.registry import ENGINES, build_engine, find_precisions
from dhvt.engines.selftest import self_test
from dhvt.errors import EngineError, EngineUnavailable

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The engine that was chosen, and why those before it were not.

    Args:
        engine: has passed its self-test on this machine.
        rejected: ``candidate: reason``, in the order in which they were tried.
    """

    engine: Engine
    rejected: tuple[str, ...]


def open_engine(artifact: Artifact, name: str = "auto", *, threads: int, max_batch_size: int = 64, device: int = 0) -> Choice:
    """Compiles the model and tests it; the self-test is the warm-up too.

    Args:
        artifact: a verified model folder.
        name: a key of :data:`ENGINES`, one with a precision such as ``openvino:fp32``, or ``auto`` for the first that
            works.
        threads, max_batch_size, device: see :class:`EngineOptions`.

    Raises:
        EngineError: the engine asked for, or with ``auto`` every engine, is missing or fails.
    """
    options = EngineOptions(threads=threads, max_batch_size=max_batch_size, device=device)
    rejected: list[str] = []
    for candidate in _passing_candidates(artifact, name, options, rejected):
        try:
            engine = build_engine(artifact, candidate, options)
            self_test(engine, artifact, (1, max_batch_size))
        except EngineError as error:
            _reject(candidate, error, rejected)
        else:
            return Choice(engine=engine, rejected=tuple(rejected))
    raise _no_engine(rejected)


def check_engine(artifact: Artifact, name: str, *, threads: int, max_batch_size: int, device: int = 0) -> None:
    """Checks that :func:`open_engine` will find an engine, without loading it into this process.

    Raises:
        EngineError: it will not.
    """
    options = EngineOptions(threads=threads, max_batch_size=max_batch_size, device=device)
    rejected: list[str] = []
    if next(_passing_candidates(artifact, name, options, rejected), None) is None:
        raise _no_engine(rejected)


def _passing_candidates(artifact: Artifact, name: str, options: EngineOptions, rejected: list[str]) -> Iterator[str]:
    """The candidates, such as ``openvino:int8``, that pass their probe; the reasons of the others go into ``rejected``."""
    runtime, _, precision = name.partition(":")
    if runtime not in ("auto", *ENGINES) or (runtime == "auto" and precision):
        raise EngineError(f"no engine {name!r}; choose auto or one of {', '.join(ENGINES)}, as openvino or openvino:fp32")
    for engine in ENGINES if runtime == "auto" else [runtime]:
        try:
            precisions = find_precisions(artifact, engine)
        except EngineError as error:
            _reject(engine, error, rejected, logging.INFO if isinstance(error, EngineUnavailable) else logging.WARNING)
            continue
        for choice in [precision] if precision else precisions:
            candidate = f"{engine}:{choice}"
            try:
                probe(artifact, candidate, options)
            except EngineError as error:
                _reject(candidate, error, rejected)
            else:
                yield candidate


def _reject(candidate: str, error: EngineError, rejected: list[str], level: int = logging.WARNING) -> None:
    reason = " ".join(str(error).split())  # runtimes write several lines
    logger.log(level, "engine %s does not serve: %s", candidate, reason)
    rejected.append(f"{candidate}: {reason}")


def _no_engine(rejected: list[str]) -> EngineError:
    return EngineError("no engine can serve this model here; " + "; ".join(rejected))
