"""What of an inspection a person should know: what must be fixed, what to look at, and what is merely noted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from dhvt.data.formats import describe_unread
from dhvt.data.inspection.finding import Finding, Level
from dhvt.data.inspection.image_findings import find_kinds, find_unusable
from dhvt.data.inspection.inspection import CheckedImage, Inspection
from dhvt.data.splits import DEFAULT_VAL_FRACTION, WHOLE
from dhvt.data.statistics import IMBALANCE
from dhvt.data.text import count

FEW_IMAGES = 10
"""A class of fewer images has one image or none among those that are held out."""


def find_all(inspection: Inspection) -> list[Finding]:
    """All findings, the most pressing first."""
    found = [
        *find_unusable(inspection),
        *_duplicates(inspection),
        *_groups(inspection),
        *_classes(inspection),
        *_files(inspection),
        *find_kinds(inspection),
    ]
    return sorted(found, key=lambda finding: ("fix", "look", "note").index(finding.level))


def is_across(group: Sequence[CheckedImage], what: Literal["label", "split"]) -> bool:
    """Whether images of a group are in several classes or splits."""
    return len({getattr(image, what) for image in group}) > 1


def _duplicates(inspection: Inspection) -> Iterator[Finding]:
    across = "The same image cannot be right in both: decide which class it is."
    leaked = "What is measured on images that were trained on is too good: leave them out of one split."
    yield from _duplicates_of(
        "exact", inspection.exact, "the same file", ("fix", "fix", "look"), (across, leaked, "One is enough.")
    )
    look = "Scaled, saved again or taken in one go: look at them. "
    if inspection.are_alike:
        look += "The images of this data set look so alike that only nearly equal ones are listed. "
    held_out = "Where they are one object or scene, --group-by keeps them on one side of the split."
    yield from _duplicates_of(
        "near",
        inspection.near,
        "images that look the same",
        ("look", "look", "note"),
        (look.strip(), look + held_out, look + held_out),
    )


def _duplicates_of(
    kind: str, groups: list[list[CheckedImage]], what: str, levels: tuple[Level, Level, Level], advice: tuple[str, str, str]
) -> Iterator[Finding]:
    """Of groups across classes, the others across splits, and the rest."""
    classes = [group for group in groups if is_across(group, "label")]
    splits = [group for group in groups if not is_across(group, "label") and is_across(group, "split")]
    rest = [group for group in groups if not is_across(group, "label") and not is_across(group, "split")]
    places = ("in several classes", "in several splits", "in one class")
    for name, found, place, level, text in zip(
        ("across_classes", "across_splits", "within_class"), (classes, splits, rest), places, levels, advice, strict=True
    ):
        if found:
            title = f"{count(len(found), 'group')} of {what} {place} ({count(sum(map(len, found)), 'image')})"
            yield Finding(f"{kind}_{name}", level, title, text, groups=sorted(found, key=len, reverse=True))


def _groups(inspection: Inspection) -> Iterator[Finding]:
    for (one, other), groups in inspection.shared_groups.items():
        if groups:
            title = f"{count(len(groups), 'group')} of --group-by in both {one} and {other}"
            yield Finding("shared_groups", "fix", title, "What is measured on them says nothing of new groups.", groups)


def _classes(inspection: Inspection) -> Iterator[Finding]:
    training = inspection.training_split
    counts = inspection.class_counts[training]
    if training not in ("train", WHOLE):
        names = ", ".join(inspection.splits)
        yield Finding("no_training_split", "fix", f"there is no train split, but {names}", "Training stops there.")
    if len(counts) == 1:
        yield Finding("one_class", "fix", f"there is one class only, {next(iter(counts))}", "Training needs two or more.")
    is_divided = inspection.is_divided
    least = 1 if is_divided else 2
    few = [name for name, number in counts.items() if number < least]
    if few:
        what = "no image that can be read" if is_divided else "fewer than two images that can be read, which cannot be divided"
        title = f"{count(len(few), 'class')} {'has' if len(few) == 1 else 'have'} {what}"
        advice = "Add images, or remove the class."
        yield Finding("too_few", "fix", title, advice, [f"{name}: {count(counts[name], 'image')}" for name in few])
    scarce = [name for name, number in counts.items() if least <= number < FEW_IMAGES]
    if scarce:
        title = f"{count(len(scarce), 'class')} of fewer than {FEW_IMAGES} images"
        advice = f"Of {DEFAULT_VAL_FRACTION:.0%} that are held out, they have one image: their accuracy is chance."
        lines = [f"{name}: {count(counts[name], 'image')}" for name in scarce]
        yield Finding("scarce", "look", title, "" if is_divided else advice, lines)
    yield from _balance(counts)
    for split, others in inspection.class_counts.items():
        unknown = sorted(name for name in set(others) - set(counts) if others[name])
        missing = sorted(name for name in counts if not others.get(name))
        if split != training and unknown:
            title = f"{split} has {count(len(unknown), 'class')} that the training images have not"
            stops = "dhvt evaluate refuses them." if split == "test" else "training stops there."
            yield Finding("unknown_classes", "fix", title, f"A model cannot know them: {stops}", unknown)
        if split != training and missing:
            yield Finding("missing_classes", "look", f"{split} has no image of {count(len(missing), 'class')}", lines=missing)


def _balance(counts: Counter[str]) -> Iterator[Finding]:
    many, few = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    if counts[few] and counts[many] > IMBALANCE * counts[few]:
        times = counts[many] / counts[few]
        yield Finding(
            "imbalance",
            "look",
            f"{many} has {times:.0f} times the images of {few}",
            "Top-1 is mostly that of the large classes: read the accuracy by class.",
            [f"{name}: {count(number, 'image')}" for name, number in counts.most_common()],
        )


def _files(inspection: Inspection) -> Iterator[Finding]:
    unused = inspection.unused
    if unused.unread:
        kinds = Counter((path.suffix.lower(), describe_unread(path) or "") for path in unused.unread)
        title = f"{count(len(unused.unread), 'image')} of formats that are not read: "
        title += ", ".join(f"{number} {suffix}" for (suffix, _), number in kinds.most_common())
        advice = " ".join(f"{suffix} is {what}." for suffix, what in kinds)
        yield Finding("unread_formats", "look", title, advice, list(map(str, unused.unread)))
    if unused.misplaced:
        title = f"{count(len(unused.misplaced), 'image')} outside of the folders that are read"
        advice = "Images belong into their class's folder; other folders beside train, val and test are ignored."
        yield Finding("misplaced", "look", title, advice, list(map(str, unused.misplaced)))
    if unused.others:
        title = f"{count(len(unused.others), 'other file')}: {_count_suffixes(unused.others)}"
        yield Finding("other_files", "note", title, "Ignored.", list(map(str, unused.others)))
    if unused.hidden:
        yield Finding("hidden", "note", count(len(unused.hidden), "hidden file"), "Ignored.", list(map(str, unused.hidden)))


def _count_suffixes(paths: Sequence[Path]) -> str:
    found = Counter(path.suffix.lower() or "no ending" for path in paths)
    return ", ".join(f"{number} {suffix}" for suffix, number in found.most_common())


def describe_splits(inspection: Inspection) -> list[str]:
    """A line for each split: its images, and their range over the classes."""
    lines = []
    for split, counts in inspection.class_counts.items():
        few, many = min(counts.values()), max(counts.values())
        each = f"{few:,}" if few == many else f"{few:,} to {many:,}"
        name = "" if split == WHOLE else f"{split}: "
        total = len(inspection.splits[split])
        lines.append(f"{name}{count(total, 'image')} in {count(len(counts), 'class')} of {each}")
    return lines
