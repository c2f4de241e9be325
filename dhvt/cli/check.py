"""``dhvt check``: what is wrong with labelled images, before anything is trained on them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dhvt.cli.field_options import field_option
from dhvt.cli.options import exclude_option, require_writable
from dhvt.errors import ConfigError
from dhvt.training.config import RunOptions

if TYPE_CHECKING:
    from dhvt.data.inspection.finding import Finding, Level
    from dhvt.data.inspection.inspection import CheckedImage, Inspection

_MOST_LINES = 5
"""Names printed of a finding; the page and ``check.json`` have more."""

_MARKS: dict[Level, tuple[str, str]] = {"fix": ("FIX ", "red"), "look": ("LOOK", "yellow"), "note": ("note", "bright_black")}


@click.command()
@click.argument("data")
@click.option("--val", help="Images to validate on, where they are elsewhere; as for dhvt train.")
@field_option(RunOptions, "group_by")
@field_option(RunOptions, "white")
@exclude_option
@click.option("--out", type=click.Path(path_type=Path), metavar="FOLDER", help="Write report.html, to look at, and check.json.")
@click.option(
    "--fix-list", type=click.Path(path_type=Path), metavar="FILE", help="Write what to leave out, for dhvt train --exclude."
)
@click.option("--num-workers", default="auto", show_default=True, metavar="N|auto", help="Processes that decode.")
def check(
    data: str,
    val: str | None,
    group_by: str | None,
    white: float | None,
    exclude: str | None,
    out: Path | None,
    fix_list: Path | None,
    num_workers: str,
) -> None:
    """Look at labelled images: broken ones, duplicates and leakage, sizes, class balance.

    \b
    dhvt check images/ --out check/ --fix-list bad.txt
    dhvt train --data images/ --out runs/mine --exclude bad.txt

    DATA is laid out as for dhvt train; all of its splits are read. Duplicates are found within a class, across classes and
    across splits: copies of a file, and images that look the same though they were scaled or saved again.

    The exit status is 1 where something must be fixed (images that cannot be read, a file in several classes or splits, a
    group of --group-by in several splits, classes that cannot be learned or divided), else 0.
    """
    from dhvt.data.exclusion import ExcludeList
    from dhvt.data.inspection.findings import describe_splits, find_all
    from dhvt.training.advice import advise

    for path in ([] if out is None else [out / "report.html"]) + ([] if fix_list is None else [fix_list]):
        require_writable(path)
    if fix_list is not None and fix_list.exists():
        raise ConfigError(
            f"{fix_list} exists, and what you decided in it would be lost; give it as --exclude and write a new list to "
            "another file, or delete it"
        )
    listed = None if exclude is None else ExcludeList(Path(exclude))
    inspection = _inspect(data, val, _count_processes(num_workers), group_by=group_by, white=white, exclude=listed)
    findings, advice = find_all(inspection), advise(inspection)
    _print("\n".join(describe_splits(inspection)))
    if listed is not None and (unmatched := listed.describe_unmatched()):
        _print(unmatched)
    for finding in findings:
        _print_finding(finding)
    must_be_fixed = any(finding.level == "fix" for finding in findings)
    _print("" if must_be_fixed else "\nNothing must be fixed.\n")
    if advice:
        _print("\n  ".join(["Advice", *advice]))
    if out is not None:
        _write_pages(out, inspection, findings, advice)
    if fix_list is not None:
        _write_fix_list(fix_list, inspection)
    sys.exit(must_be_fixed)


def _inspect(data: str, val: str | None, processes: int, **options: Any) -> Inspection:
    """Inspects with a progress bar."""
    from tqdm import tqdm

    from dhvt.data.inspection.inspection import inspect

    with tqdm(unit="image", desc="reading", leave=False, delay=1) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done)

        return inspect(data, val, processes=processes, on_progress=advance, **options)


def _count_processes(text: str) -> int:
    from dhvt.hardware.cpus import available_cpus

    if text == "auto":
        return available_cpus()
    if not text.isdigit() or not int(text):
        raise click.BadParameter(f"{text!r} is neither auto nor a number from 1", param_hint="--num-workers")
    return int(text)


def _print(text: str) -> None:
    from dhvt.data.text import printable

    click.echo("\n".join(map(printable, text.split("\n"))))


def _print_finding(finding: Finding) -> None:
    from dhvt.data.text import printable

    mark, color = _MARKS[finding.level]
    click.echo(f"\n{click.style(mark, fg=color, bold=finding.level == 'fix')}  {printable(finding.title)}")
    indent = " " * 6
    if finding.advice:
        _print(indent + finding.advice)
    lines = finding.lines or _describe_groups(finding.groups)
    for line in lines[:_MOST_LINES]:
        _print(f"{indent}- {printable(line)}")
    if len(lines) > _MOST_LINES:
        _print(f"{indent}… and {len(lines) - _MOST_LINES:,} more")


def _describe_groups(groups: Sequence[Sequence[CheckedImage]]) -> list[str]:
    """A line for each group; of a single one for each image."""
    if len(groups) == 1:
        return [image.place for image in groups[0]]
    return [", ".join(image.place for image in group[:3]) + (", …" if len(group) > 3 else "") for group in groups]


def _write_pages(folder: Path, inspection: Inspection, findings: Sequence[Finding], advice: Sequence[str]) -> None:
    from dhvt.data.inspection.page import build_page
    from dhvt.data.inspection.record import build_record

    _write(folder / "check.json", build_record(inspection, findings, advice))
    _write(folder / "report.html", build_page(inspection, findings, advice))
    _print(f"\nreport: {folder / 'report.html'}")


def _write_fix_list(path: Path, inspection: Inspection) -> None:
    from dhvt.data.inspection.fix_list import count_listed, format_fix_list
    from dhvt.data.text import count

    text = format_fix_list(inspection)
    _write(path, text)
    _print(f"\n{path}: {count(count_listed(text), 'image')} to leave out, with dhvt train --exclude {path}")


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
