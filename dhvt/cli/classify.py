"""``dhvt classify``: the classes of image files, without a server."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from dhvt.cli.options import engine_options, load_classifier


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
@click.option("--by-class", is_flag=True, help="--coverage shall hold within each class, and not only on average over all.")
@click.option(
    "--reject",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="Mark images that are unknown to the model: as strange as only this share of known ones, as 0.01; the model needs "
    "reference images, see dhvt calibrate.",
)
@click.option(
    "--json",
    "output",
    flag_value="json",
    help="Print a JSON object for each image that can be read, as the server's responses.",
)
@click.option("--csv", "output", flag_value="csv", help="Print a table of comma-separated values, with a row for each image.")
@click.option(
    "--parquet",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a Parquet file with a row for each image, also for those that cannot be read; needs pyarrow.",
)
@click.argument("images", nargs=-1, required=True)
def classify(
    model: str | None,
    engine: str | None,
    top_k: int,
    coverage: float | None,
    by_class: bool,
    reject: float | None,
    output: str | None,
    parquet: Path | None,
    images: tuple[str, ...],
) -> None:
    """Print the most likely classes of IMAGES, with their probabilities.

    IMAGES are files, folders, of which all images at any depth are taken, and patterns such as 'photos/**/*.jpg'.

    \b
    With the bundled CIFAR-10 model:
      dhvt classify cat.jpg
    A folder, one JSON object a line:
      dhvt classify --model runs/mine/artifact --json photos/ > classes.jsonl
    A folder, as a Parquet file:
      dhvt classify --model runs/mine/artifact --parquet classes.parquet photos/

    An image that cannot be read is reported, the others are classified, and the exit code is 1. It is also 1 where nothing can
    be classified: an engine named by --engine or DHVT_ENGINE is an order, and if it cannot run, the command fails. It is 2
    where the command line is wrong.
    """
    from tqdm import tqdm

    from dhvt.cli.answer_files import open_writer
    from dhvt.cli.found_images import find_images
    from dhvt.errors import ImageError

    if output is not None and parquet is not None:
        raise click.UsageError(f"--{output} prints, and --parquet writes a file: give one of them")
    if by_class and coverage is None:
        raise click.UsageError("--by-class needs --coverage")
    paths = find_images(images)
    classifier = load_classifier(model, engine)
    card = classifier.artifact.card
    identity = {"model": card.name, "version": card.version, "digest": card.digest}
    failed = 0
    results = classifier.classify_many(paths, top_k, coverage=coverage, by_class=by_class, reject=reject)
    with (
        open_writer(output or "text", parquet, min(top_k, len(card.classes)), identity) as write,
        tqdm(total=len(paths), unit="image", leave=False, delay=1, disable=None) as bar,
    ):
        for path, result in zip(paths, results, strict=True):
            failed += isinstance(result, ImageError)
            with tqdm.external_write_mode():
                write(path, result)
            bar.update()
    if parquet is not None:
        click.echo(f"{len(paths):,} images in {parquet}, {failed:,} of them could not be read")
    sys.exit(1 if failed else 0)
