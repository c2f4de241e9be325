"""What an inspection says of single images: unreadable ones, their values, shapes and kinds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from statistics import median

from dhvt.data.inspection.finding import Finding
from dhvt.data.inspection.inspection import CheckedImage, Inspection
from dhvt.data.inspection.values import find_deep_values
from dhvt.data.text import count

SMALL_SIDE = 32
LONG_RATIO = 2.0
"""Longer side by shorter side, beyond which cutting the middle out loses half of an image."""


def find_unusable(inspection: Inspection) -> Iterator[Finding]:
    """The images that a training cannot read, or whose values it cannot scale."""
    yield from _unreadable(inspection)
    yield from _levels(inspection)


def find_kinds(inspection: Inspection) -> Iterator[Finding]:
    """What the readable images are like: blank, small, long, of which colours and formats."""
    yield from _blank(inspection)
    yield from _shapes(inspection)
    yield from _modes(inspection)


def _unreadable(inspection: Inspection) -> Iterator[Finding]:
    broken = inspection.broken
    if broken:
        yield Finding(
            "broken",
            "fix",
            f"{count(len(broken), 'image')} cannot be read",
            "Replace or remove them, or leave them out with --fix-list and dhvt train --exclude.",
            [f"{image.place}: {image.facts.error}" for image in broken],
        )


def _levels(inspection: Inspection) -> Iterator[Finding]:
    found = find_deep_values(inspection)
    if found.refused:
        title = f"{count(len(found.refused), 'image')} of values that fit no white level"
        advice = "Training cannot read them: --fix-list lists them; or give the value that is white with --white, here too."
        yield Finding("values", "fix", title, advice, [f"{image.place}: {reason}" for image, reason in found.refused])
    if found.description is not None:
        title = f"{count(len(found.images), 'image')} of more than 8 bits"
        yield Finding("levels", "note", title, "How bright they are depends on this:", found.description.split("\n"))


def _blank(inspection: Inspection) -> Iterator[Finding]:
    blank = [image for image in inspection.readable if image.facts.appearance.is_blank]
    if blank:
        title = f"{count(len(blank), 'image')} of one colour"
        yield Finding("blank", "look", title, "They show nothing: probably remove them.", groups=[blank])


def _shapes(inspection: Inspection) -> Iterator[Finding]:
    images = inspection.readable
    if not images:
        return
    sizes = Counter((image.facts.width, image.facts.height) for image in images)
    sides = sorted(min(image.facts.width, image.facts.height) for image in images)
    first = images[0].facts
    if len(sizes) == 1:
        title = f"all images have {first.width}×{first.height} pixels"
    else:
        title = (
            f"{count(len(sizes), 'size')}; shorter sides of {sides[0]} to {sides[-1]} pixels, the median {median(sides):.0f}"
        )
    lines = [f"{width}×{height}: {count(number, 'image')}" for (width, height), number in sizes.most_common()][
        len(sizes) == 1 :
    ]
    yield Finding("sizes", "note", title, lines=lines)
    small = [image for image in images if min(image.facts.width, image.facts.height) < SMALL_SIDE]
    if small and sides[-1] >= SMALL_SIDE:
        title = f"{count(len(small), 'image')} with a side below {SMALL_SIDE} pixels"
        yield Finding("small", "look", title, "They are enlarged: are they thumbnails?", groups=[small])
    long = [image for image in images if _ratio(image) > LONG_RATIO]
    if long:
        title = f"{count(len(long), 'image')} more than {LONG_RATIO:g} times as long as wide"
        advice = "Only their middle is used; --resize-mode pad keeps all of them."
        yield Finding("long", "look", title, advice, groups=[sorted(long, key=_ratio, reverse=True)])


def _ratio(image: CheckedImage) -> float:
    sides = (image.facts.width, image.facts.height)
    return max(sides) / min(sides)


def _modes(inspection: Inspection) -> Iterator[Finding]:
    modes = Counter(image.facts.mode for image in inspection.readable)
    formats = Counter(image.facts.format for image in inspection.readable)
    if modes:
        kinds = [*modes.most_common(), *((f"{name} file", number) for name, number in formats.most_common())]
        lines = [f"{kind}: {count(number, 'image')}" for kind, number in kinds] if len(kinds) > 2 else []
        title = f"{', '.join(mode for mode, _ in modes.most_common())}; {', '.join(name for name, _ in formats.most_common())}"
        advice = "Several kinds: does one tell a class from another?" if len(modes) > 1 else ""
        yield Finding("modes", "note", title, advice, lines)
    animated = [image.place for image in inspection.readable if image.facts.is_animated]
    if animated:
        title = f"{count(len(animated), 'image')} of several frames"
        yield Finding("animated", "look", title, "The first frame alone is used.", animated)
