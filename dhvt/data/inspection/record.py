"""``check.json``: an inspection for programs, with every name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dhvt.data.inspection.finding import Finding
from dhvt.data.inspection.inspection import CheckedImage, Inspection


def build_record(inspection: Inspection, findings: Sequence[Finding], advice: Sequence[str]) -> str:
    """The JSON text. Bytes of names that are no UTF-8 are lone surrogates, as Python reads them."""
    record = {
        "data": inspection.data,
        "splits": {
            split: {"images": len(inspection.splits[split]), "readable_by_class": dict(counts)}
            for split, counts in inspection.class_counts.items()
        },
        "findings": [_describe(finding) for finding in findings],
        "advice": list(advice),
    }
    return json.dumps(record, indent=1) + "\n"


def _describe(finding: Finding) -> dict[str, Any]:
    described: dict[str, Any] = {"kind": finding.kind, "level": finding.level, "title": finding.title}
    described |= {"advice": finding.advice} if finding.advice else {}
    described |= {"lines": finding.lines} if finding.lines else {}
    groups = [[_describe_image(image) for image in group] for group in finding.groups]
    return described | ({"groups": groups} if groups else {})


def _describe_image(image: CheckedImage) -> dict[str, Any]:
    return {"path": image.place, "split": image.split, "class": image.label, "size": [image.facts.width, image.facts.height]}
