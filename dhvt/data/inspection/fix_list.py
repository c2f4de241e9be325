"""The list of images to leave out, as ``dhvt train --exclude`` takes it."""

from __future__ import annotations

from collections.abc import Iterator

from dhvt.data.exclusion import format_entry
from dhvt.data.inspection.findings import is_across
from dhvt.data.inspection.inspection import CheckedImage, Inspection
from dhvt.data.inspection.values import find_deep_values
from dhvt.data.text import count, printable

_KEPT_FIRST = ("test", "val", "train")
"""Of copies in several splits, the one in the first of these is kept: what is measured stays the same."""


def format_fix_list(inspection: Inspection) -> str:
    """Lines of paths with a comment for each reason; near duplicates as comments, since only a person can decide on them."""
    lines = ["# Images to leave out: dhvt train --exclude THIS FILE", "# A line that starts with # is a comment."]
    for image in inspection.broken:
        lines += _entry(image, f"cannot be read: {image.facts.error}")
    for image, reason in find_deep_values(inspection).refused:
        lines += _entry(image, f"training refuses it: {reason}")
    for group in inspection.exact:
        if is_across(group, "label"):
            labels = ", ".join(sorted({printable(image.label) for image in group}))
            for image in group:
                lines += _entry(image, f"the same file is in the classes {labels}")
        else:
            kept, *others = sorted(group, key=_order)
            for image in others:
                lines += _entry(image, f"the same file as {printable(kept.place)}")
    lines += _near(inspection)
    return "\n".join([*lines, ""])


def count_listed(text: str) -> int:
    """The images that a list names."""
    return len({line for line in text.split("\n") if line and not line.startswith("#")})


def _near(inspection: Inspection) -> Iterator[str]:
    groups = [group for group in inspection.near if is_across(group, "label") or is_across(group, "split")]
    if groups:
        yield ""
        yield f"# {count(len(groups), 'group')} of images that look the same, across classes or splits. Look at them; to leave"
        yield "# one out, delete the # before its path."
    for group in groups:
        yield "#"
        for image in sorted(group, key=_order):
            yield f"# {image.split}, {printable(image.label)}:"
            yield f"#{format_entry(image.place)}"


def _order(image: CheckedImage) -> int:
    return _KEPT_FIRST.index(image.split) if image.split in _KEPT_FIRST else len(_KEPT_FIRST)


def _entry(image: CheckedImage, reason: str) -> list[str]:
    return [f"# {printable(reason)}", format_entry(image.place)]
