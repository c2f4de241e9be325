"""The candidates of a choice, with what is known of each, and which of them is the fastest that is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from dhvt.engines.accuracy import AccuracyCost
from dhvt.engines.speed import Speed

NOISE = 0.05
"""Share by which two measurements of one engine differ; of engines as fast as each other, the more exact one serves."""

_MOST_EXACT_FIRST = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One engine in one precision, or an engine alone where it offers none.

    Args:
        engine, precision: as :class:`dhvt.engines.Engine` has them.
        speed: measured on this machine; None where it has not been, or the candidate fails.
        cost: in accuracy, as export recorded it.
        chosen: whether it serves.
        reason: why it does not serve; why it does, if it was chosen.
    """

    engine: str
    precision: str = ""
    speed: Speed | None = None
    cost: AccuracyCost = field(default_factory=AccuracyCost)
    chosen: bool = False
    reason: str = ""

    @property
    def name(self) -> str:
        """As ``DHVT_ENGINE`` takes it."""
        return f"{self.engine}:{self.precision}" if self.precision else self.engine

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for ``/info``."""
        values = asdict(self)
        speed = {"images_per_s": None, "latency_ms": None, "busy": None} if self.speed is None else self.speed.to_dict()
        cost = {"top1_loss": self.cost.top1_loss, "top1_agreement": self.cost.agreement}
        return {**speed, **cost} | {name: values[name] for name in ("engine", "precision", "chosen", "reason")}

    def describe(self) -> str:
        """One line: engine, precision, images/s, ms, accuracy cost, and why it serves or not."""
        parts = [self.name]
        if self.speed is not None:
            busy = ", measured on a busy machine" if self.speed.busy else ""
            parts.append(f"{self.speed.images_per_s:.0f} images/s, {self.speed.latency_ms:.3g} ms an image{busy}")
        if self.cost.top1_loss is not None:
            agreement = f", same class for {self.cost.agreement:.1%}" if self.cost.agreement is not None else ""
            parts.append(f"costs {max(self.cost.top1_loss, 0):.2f} points of top-1 (at most {self.cost.bound:g}){agreement}")
        parts.append(f"{'serves' if self.chosen else 'does not serve'}: {self.reason}")
        return "; ".join(parts)


def speeds_are_known(candidates: Sequence[Candidate]) -> bool:
    """Whether all have been measured, none of them while other programs took the processors."""
    return all(candidate.speed is not None and not candidate.speed.busy for candidate in candidates)


def rank(candidates: Sequence[Candidate], prefer: str) -> list[Candidate]:
    """The candidates that pass, best first.

    The fastest is the best; among those that are within :data:`NOISE` of it, the most exact. Where one has not been measured,
    or on a busy machine, nothing is known of which is faster: all keep their order, in which the first is expected to be.

    Args:
        prefer: one of :data:`dhvt.engines.settings.PREFERENCES`.
    """
    if not speeds_are_known(candidates):
        return list(candidates)
    measured, ranked = list(candidates), []
    while measured:
        fastest = max(_rate(candidate, prefer) for candidate in measured)
        as_fast = [candidate for candidate in measured if _rate(candidate, prefer) * (1 + NOISE) >= fastest]
        best = min(as_fast, key=lambda candidate: (_exactness(candidate), -_rate(candidate, prefer)))
        ranked.append(best)
        measured.remove(best)
    return ranked


def _rate(candidate: Candidate, prefer: str) -> float:
    assert candidate.speed is not None
    return candidate.speed.images_per_s if prefer == "throughput" else 1 / candidate.speed.latency_ms


def _exactness(candidate: Candidate) -> int:
    return _MOST_EXACT_FIRST.index(candidate.precision)
