"""``dhvt evaluate``: an exported model measured on labelled images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dhvt.cli.options import (
    engine_options,
    exclude_option,
    leave_out,
    omit_broken,
    on_broken_option,
    open_model,
    read_fingerprint,
    require_writable,
)
from dhvt.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dhvt.artifact import Artifact, ModelCard
    from dhvt.data.fingerprint import Fingerprint
    from dhvt.data.sources import ImageSource
    from dhvt.engines import Engine
    from dhvt.evaluation.metrics import Evaluation, Outputs
    from dhvt.evaluation.promises import Promised, Promises


@click.command()
@engine_options
@click.option("--data", required=True, help="Labelled images, laid out as for dhvt train; see docs/data.md.")
@click.option("--split", help="train, val or test. Default: test, or all images where the data has no splits.")
@click.option("--allow-overlap", is_flag=True, help="Measure even on images that the model has learned from.")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True)
@on_broken_option
@exclude_option
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    help="Folder for report.html, report.md and predictions.parquet; needs the report extra.",
)
@click.option(
    "--unknown",
    metavar="FOLDER|DATA",
    help="Images of other kinds, to measure how many of them are called unknown: a folder, of which all images at any depth "
    "are taken, or another layout of docs/data.md.",
)
@click.option(
    "--record",
    is_flag=True,
    help="Write the result into model.json, under metrics and the split's name; test where the data has no splits.",
)
def evaluate(
    model: str | None,
    engine: str | None,
    data: str,
    split: str | None,
    allow_overlap: bool,
    batch_size: int,
    on_broken: str,
    exclude: str | None,
    report: Path | None,
    unknown: str | None,
    record: bool,
) -> None:
    """Measure an exported model, in the engine that serves it, on labelled images.

    \b
    Its accuracy and calibration on the test split, with a report:
      dhvt evaluate --model runs/mine/artifact --data images/ --report runs/mine/test
    On new images without splits, written into the model's card:
      dhvt evaluate --model runs/mine/artifact --data new-images/ --record
    How many images of other kinds are called unknown:
      dhvt evaluate --model runs/mine/artifact --data images/ --unknown other-images/ --report runs/mine/test

    The model's card knows the images that it was trained, validated and calibrated on. Images that are among them are
    refused: what is measured on those says nothing of new images. They are recognised by the bytes of their files.

    Of a model with reference images (dhvt calibrate) it also tells how often the right label is in the prediction set, how many
    images are called unknown, and the calibration error beside the reference's, on those images that are not in it.
    """
    from tqdm import tqdm

    from dhvt.data.splits import open_test_data
    from dhvt.evaluation.metrics import collect_outputs
    from dhvt.evaluation.metrics import evaluate as measure

    if report is not None:
        _require_report(report)
    artifact, running = open_model(model, engine)
    card = artifact.card
    source, measured_split = open_test_data(data, split, card.classes)
    others = None if unknown is None else _open_unknown(artifact, Path(unknown))
    if exclude is not None:
        source = leave_out(source, Path(exclude))
    images = read_fingerprint(source) if card.data or record else None
    overlaps = _check_unseen(images, card, allow_overlap)

    def run(part: ImageSource, kind: str) -> Outputs:
        on_error = omit_broken(on_broken)
        with tqdm(total=len(part), unit="image", desc=f"{kind}{running.name} {running.precision}") as bar:
            return collect_outputs(
                running.predict, part, card.preprocess, batch_size=batch_size, on_error=on_error, on_progress=bar.update
            )

    outputs = run(source, "")
    result = measure(outputs, card.temperature)
    click.echo(_describe(result, len(card.classes)))
    strange = None if others is None else run(others, "other images, ").logits
    promises, promised = _measure_promises(artifact, running, outputs, source, strange)
    if record and images is not None:
        measured = {**result.to_dict(), **promises.to_dict(), "engine": running.name, "precision": running.precision}
        measured |= {"data": Path(data).name, "digest": images.digest} | ({"overlap": overlaps} if overlaps else {})
        _record(artifact, measured_split, measured, images, source)
    if report is not None:
        _write_report(
            report,
            title=f"{card.name} {card.version} on {Path(data).name}, {measured_split}",
            source=source,
            preprocess=card.preprocess,
            outputs=outputs,
            evaluation=result,
            temperature=card.temperature,
            facts={"engine": f"{running.name} in {running.precision}", "model": str(artifact.path), **_overlap_fact(overlaps)}
            | {f"right label in the set at {entry.coverage:g}": entry.summarise() for entry in promises.coverage},
            promised=promised,
        )


def _describe(result: Evaluation, classes: int) -> str:
    top5 = f"top-5 {result.top5:.2f} %, " if classes > 5 else ""
    return (
        f"top-1 {result.top1:.2f} %, {top5}balanced accuracy {result.balanced_accuracy:.2f} %, "
        f"macro-F1 {result.macro_f1:.2f} %, log loss {result.nll:.4f}, calibration error {result.ece:.2f} % "
        f"({result.ece_low:.1f} to {result.ece_high:.1f} %) of {result.images} images ({result.skipped} left out)"
    )


def _open_unknown(artifact: Artifact, path: Path) -> ImageSource:
    """Images whose labels do not matter.

    Raises:
        ConfigError: the model cannot tell known images from others.
    """
    from dhvt.cli.found_images import find_images
    from dhvt.confidence.reference import load_reference
    from dhvt.data.sources import SPLITS, FileSource
    from dhvt.data.splits import open_first_split

    if load_reference(artifact) is None:
        raise ConfigError(f"--unknown needs a model with reference images: dhvt calibrate --model {artifact.path} --data …")
    try:
        paths = find_images([str(path)]) if os.path.isdir(path) else []
    except click.UsageError:  # no folder of image files
        paths = []
    if not paths:  # then it must be another layout
        return open_first_split(path, list(reversed(SPLITS))).source
    return FileSource(path, path, paths, [0] * len(paths), artifact.card.classes)


def _measure_promises(
    artifact: Artifact, running: Engine, outputs: Outputs, source: ImageSource, strange: NDArray[np.float32] | None
) -> tuple[Promises, Promised | None]:
    """Prints and returns what is measured of the model's promises, and what the report draws; nothing without a reference.

    Args:
        strange: logits of images of other kinds, ``(M, classes)``; None where there are none.
    """
    from dhvt.confidence.reference import load_reference
    from dhvt.confidence.rejection import measure_detection
    from dhvt.evaluation.promises import ONLY_REFERENCE, Promised, Promises, check_promises, leave_out_reference

    reference = load_reference(artifact)
    card = artifact.card
    others = None if reference is None else leave_out_reference(outputs, source, reference)
    if reference is None or others is None:
        return Promises(), None
    if not len(others.labels):
        click.echo(ONLY_REFERENCE, err=True)
        return Promises(), None
    promises = check_promises(others, card.temperature, reference, running.precision)
    for line in promises.describe():
        click.echo(line)
    measured, _ = reference.find(running.precision)
    if strange is not None and measured.novelty is not None and measured.index is not None:
        click.echo(measure_detection(measured.novelty, measured.index, others.logits, strange).describe())
    return promises, Promised(
        measured=measured, temperature=card.temperature, logits=others.logits, labels=others.labels, unknown=strange
    )


def _check_unseen(images: Fingerprint | None, card: ModelCard, allow_overlap: bool) -> dict[str, float]:
    """Refuses images that the model has learned from, or prints how many of them are."""
    from dhvt.data.record import SEEN, describe_overlaps, find_overlaps, require_unseen

    if images is None or not card.data.keys() & set(SEEN):
        click.echo("model.json does not record what the model was trained on; it may have seen these images", err=True)
        return {}
    if allow_overlap:
        overlaps = find_overlaps(images, card.data)
    else:
        overlaps = require_unseen(images, card.data, hint="give other images, or --allow-overlap to measure nevertheless")
    if overlaps:
        click.echo(f"{describe_overlaps(overlaps)}: the figures are too good", err=True)
    return overlaps


def _overlap_fact(overlaps: Mapping[str, float]) -> dict[str, str]:
    from dhvt.data.record import describe_overlaps

    return {"images that the model has seen": describe_overlaps(overlaps)} if overlaps else {}


def _require_report(folder: Path) -> None:
    """Refuses a report that could not be written, before minutes of measuring."""
    require_writable(folder / "report.html")
    try:
        import dhvt.evaluation.report  # noqa: F401  # to see whether all that it imports is installed
    except ImportError as error:
        raise ConfigError(f"--report needs matplotlib ({error}): pip install 'dhvt-serve[report]'") from error


def _write_report(folder: Path, **content: Any) -> None:
    from dhvt.evaluation.report import write_report

    try:
        path = write_report(folder, **content)
    except OSError as error:
        raise ConfigError(f"cannot write the report: {error}; choose another --report") from error
    click.echo(f"report: {path}")


def _record(artifact: Artifact, split: str, measured: dict[str, Any], images: Fingerprint, source: ImageSource) -> None:
    """Writes what was measured into the card, and which images are the test images, if those of this split are.

    Undivided images are a test where the model has not seen them.
    """
    from dataclasses import replace
    from importlib.metadata import version

    from dhvt.artifact import write_card
    from dhvt.data.record import is_seen
    from dhvt.data.splits import WHOLE
    from dhvt.evidence import HARNESS

    split = "test" if split == WHOLE and not is_seen(measured) else split
    card = artifact.reload_card()
    data = dict(card.data)
    if split == "test":
        data["test"] = {**images.to_dict(), "source": source.origin}
    write_card(artifact.path, replace(card, metrics=card.metrics | {split: {**measured, HARNESS: version(HARNESS)}}, data=data))
    click.echo(f"recorded in {artifact.path / 'model.json'} as metrics.{split}")
