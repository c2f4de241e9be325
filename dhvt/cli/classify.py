"""``dhvt classify``: the classes of image files, without a server."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dhvt.cli.options import engine_options, load_classifier

if TYPE_CHECKING:
    from dhvt.classifier import Predictions


@click.command()
@engine_options
@click.option("--top-k", default=3, show_default=True, type=click.IntRange(min=1), help="Classes to print for each image.")
@click.option(
    "--coverage",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="Also print the labels among which the right one is for this share of images, as 0.95; the model needs reference "
    "images, see dhvt calibrate.",
)
@click.option(
    "--reject",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="Mark images that are unknown to the model: as strange as only this share of known ones, as 0.01; the model needs "
    "reference images, see dhvt calibrate.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per image, as the server's responses.")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
def classify(
    model: str | None,
    engine: str | None,
    top_k: int,
    coverage: float | None,
    reject: float | None,
    as_json: bool,
    images: tuple[Path, ...],
) -> None:
    """Print the most likely classes of IMAGES, with their probabilities.

    \b
    With the bundled CIFAR-10 model:
      dhvt classify cat.jpg
    Many images, one JSON object a line:
      dhvt classify --model runs/mine/artifact --json photos/*.jpg > classes.jsonl

    An image that cannot be read is reported, and the exit code is then 1. An engine named by --engine or DHVT_ENGINE is an
    order: if it cannot run, the command fails.
    """
    from dhvt.errors import ImageError

    classifier = load_classifier(model, engine)
    card = classifier.artifact.card
    identity = {"model": card.name, "version": card.version, "digest": card.digest}
    failed = False
    results = classifier.classify_many(images, top_k, coverage=coverage, reject=reject)
    for path, result in zip(images, results, strict=True):
        if isinstance(result, ImageError):
            click.echo(f"{path}: {result}", err=True)
            failed = True
        elif as_json:
            click.echo(json.dumps({"file": str(path), **identity, "predictions": result, **_assessed_fields(result)}))
        else:
            scores = ", ".join(f"{entry['label']} {entry['score']:.1%}" for entry in result)
            click.echo(f"{path}: {scores}{_set_text(result)}{_known_text(result)}")
    sys.exit(1 if failed else 0)


def _assessed_fields(result: Predictions) -> dict[str, Any]:
    """As the server's responses have them."""
    fields = {
        "prediction_set": result.prediction_set,
        "prediction_set_note": result.note,
        "p_known": result.p_known,
        "known": result.known,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _set_text(result: Predictions) -> str:
    if result.prediction_set is None:
        return ""
    return f"; {result.note}" if result.note else f"; one of: {', '.join(result.prediction_set)}"


def _known_text(result: Predictions) -> str:
    return f"; unknown (p = {result.p_known:.4g})" if result.known is False else ""
