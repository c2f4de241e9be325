"""What the workers' tests for drift say together, for ``GET /drift``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from math import exp, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhvt.confidence.drift import Alarm, DriftTest
from dhvt.confidence.shares import ShareChange, changed_shares
from serving.settings import Settings

_LARGEST_LOG = 700.0  # exp of more is no float


def log_evidence_of(tests: Sequence[DriftTest], workers: int) -> float:
    """The logarithm of the server's evidence: the largest of its workers', divided by their number.

    Their tests share the reference, so that they are not independent, and their mean is no martingale of all answers
    together; P(any of them ever reaches W/δ) ≤ δ holds all the same.
    """
    return max(test.log_evidence for test in tests) - log(workers)


def describe_drift(tests: Sequence[DriftTest], classes: Sequence[str], settings: Settings) -> dict[str, Any]:
    """Images, evidence, what that means, alarm and window; see :class:`serving.http.schemas.Drift`.

    Args:
        tests: of the workers that have tested something.
        classes: their names.
    """
    alarms = [test.alarm for test in tests if test.alarm is not None]
    alarm = min(alarms, key=lambda alarm: alarm.time, default=None)
    log_evidence = log_evidence_of(tests, settings.workers)
    counts = np.sum([test.recent_counts for test in tests], axis=0)
    return {
        "reference_images": int(tests[0].reference_counts.sum()),
        "images": sum(test.images for test in tests),
        "evidence": exp(min(log_evidence, _LARGEST_LOG)),
        "alarm_at": 1 / settings.drift_false_alarm,
        "meaning": _explain(alarm, settings.drift_false_alarm),
        "alarm": None if alarm is None else _describe_alarm(alarm),
        "window": _describe_window(counts, tests[0].reference_counts, classes),
    }


def _explain(alarm: Alarm | None, false_alarm: float) -> str:
    """The bound, in words."""
    bound = f"images of the reference's kind, in random order, ever give evidence of {1 / false_alarm:,.4g} or more"
    found = "no alarm" if alarm is None else "the images have changed"
    return f"{found}: {bound} with a probability of at most {false_alarm:.4g}"


def _describe_alarm(alarm: Alarm) -> dict[str, Any]:
    return {
        "at": _to_iso(alarm.time),
        "after_images": alarm.images,
        "began_about": _to_iso(alarm.began_time),
        "began_after_images": alarm.began_images,
        "of": alarm.of,
    }


def _to_iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _describe_window(counts: NDArray[np.int64], reference: NDArray[np.int64], classes: Sequence[str]) -> dict[str, Any]:
    """The last answers: which classes grew or shrank."""
    changes = changed_shares(counts, reference)
    return {
        "images": int(counts.sum()),
        "grew": [_describe_change(change, classes) for change in changes if change.share > change.reference_share],
        "shrank": [_describe_change(change, classes) for change in changes if change.share < change.reference_share],
    }


def _describe_change(change: ShareChange, classes: Sequence[str]) -> dict[str, Any]:
    return {
        "label": classes[change.label],
        "share": round(change.share, 6),
        "reference_share": round(change.reference_share, 6),
        "change": [round(change.low, 6), round(change.high, 6)],
    }
