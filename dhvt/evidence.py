"""What was measured of a model and held against a limit, as statements that other tools read.

Each is an in-toto statement (https://in-toto.io/Statement/v1) with the predicate ``eval-result``, which is proposed, not
accepted: https://github.com/in-toto/attestation/pull/575. ``value`` and ``runtime`` are ours; readers of in-toto skip what they
do not know.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from dhvt.card import ModelCard, Variant, top1_loss
from dhvt.data.record import is_seen

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://in-toto.io/attestation/eval-result/v0.1"
HARNESS = "dhvt-serve"

_PARITY = (
    ("max_abs_logit_error", "<=", "max_abs_error", "atol"),
    ("mean_abs_logit_error", "<=", "mean_abs_error", "mean_error"),
    ("top1_agreement", ">=", "top1_agreement", "top1_agreement"),
    ("top1_loss_points", "<=", "top1_loss", "top1_loss"),
)
"""Metric, comparator, and the keys of the comparison and of its tolerance."""

_PROMISES = (
    ("coverage", "coverage", ">=", "least"),
    ("rejection", "reject", "<=", "most"),
    ("calibration", None, "<=", "most"),
)
"""The entry in a card's metrics, what was asked for, comparator, and the key of the limit."""

_METRICS = {"coverage": "coverage@{}", "rejection": "false_rejection_rate@{}", "calibration": "calibration_error"}


def find_evidence(card: ModelCard) -> list[dict[str, Any]]:
    """One statement for each comparison of a variant with PyTorch, and for each recorded evaluation with promises.

    None for an evaluation on images that the model has seen, where no promise is made.
    What was measured without a limit (an accuracy) is in the card's ``metrics`` alone.
    """
    return [*_compare(card), *_evaluate(card)]


def _compare(card: ModelCard) -> Iterator[dict[str, Any]]:
    for variant in card.variants:
        tolerance = variant.parity.get("tolerance", {})
        for comparison in variant.parity.get("comparisons", []):
            lost = top1_loss(comparison)
            measured = comparison if lost is None else {**comparison, "top1_loss": lost}
            claims = [
                _claim(metric, comparator, tolerance[limit], measured[key])
                for metric, comparator, key, limit in _PARITY
                if key in measured and math.isfinite(tolerance.get(limit, math.inf))
            ]
            if claims:
                version, data = card.versions.get(HARNESS), variant.parity.get("data", {}).get("digest")
                yield _state(card, variant, claims, measured["images"], measured["runtime"], version, data)


def _evaluate(card: ModelCard) -> Iterator[dict[str, Any]]:
    for entry in card.metrics.values():
        if not isinstance(entry, dict) or is_seen(entry):
            continue
        claims, images = [], 0
        for name, asked, comparator, limit in _PROMISES:
            found = entry.get(name, [])
            for promise in [found] if isinstance(found, dict) else found:
                metric = _METRICS[name].format(promise.get(asked))
                claims.append(_claim(metric, comparator, promise[limit], promise["measured"]))
                images = promise["images"]
        if claims:
            variant = card.find_run(entry["engine"], entry["precision"]) or card.variants[0]
            runtime = f"{entry['engine']}:{entry['precision']}"
            yield _state(card, variant, claims, images, runtime, entry.get(HARNESS), entry.get("digest"))


def _claim(metric: str, comparator: str, threshold: float, value: float) -> dict[str, Any]:
    passed = value <= threshold if comparator == "<=" else value >= threshold
    return {
        "metric": metric,
        "comparator": comparator,
        "threshold": _decimal(threshold),
        "value": _decimal(value),
        "passed": passed,
    }


def _decimal(value: float) -> str:
    return format(Decimal(repr(float(value))), "f")


def _state(
    card: ModelCard,
    variant: Variant,
    claims: list[dict[str, Any]],
    images: int,
    runtime: str,
    version: str | None,
    data: str | None,
) -> dict[str, Any]:
    harness: Mapping[str, str] = {"name": HARNESS} | ({} if version is None else {"version": version})
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": card.files[name]}} for name in variant.files if name in card.files],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "claims": claims,
            "sampleSize": images,
            "runtime": runtime,
            "harness": harness,
            "assuranceLevel": "self_attested",
        }
        | ({} if data is None else {"commitments": {"dataset": data}}),
    }
