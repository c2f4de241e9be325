"""One thing that an inspection found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dhvt.data.inspection.inspection import CheckedImage

Level = Literal["fix", "look", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Args:
        kind: a name for programs, as ``broken``.
        level: ``fix`` what makes a training fail or a figure wrong; ``look`` what often is a mistake; ``note`` the rest.
        title: one line with a number.
        advice: what to do.
        lines: what it is about, one text each.
        groups: of images, to be shown beside each other.
    """

    kind: str
    level: Level
    title: str
    advice: str = ""
    lines: list[str] = field(default_factory=list)
    groups: list[list[CheckedImage]] = field(default_factory=list)
