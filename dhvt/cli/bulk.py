"""``dhvt bulk``: millions of images, on one machine or a Ray cluster."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dhvt.cli.options import engine_options

if TYPE_CHECKING:
    from dhvt.artifact import Artifact
    from dhvt.bulk.job import BulkJob
    from dhvt.bulk.pipeline import BulkSettings

_share = click.FloatRange(0, 1, min_open=True, max_open=True)


@click.command()
@engine_options
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for Parquet files; it is made.",
)
@click.option("--address", help="Ray cluster to use, as ray://head:10001, or auto on one of its nodes. Default: this machine.")
@click.option(
    "--threads",
    default=0,
    type=click.IntRange(min=0),
    help="Processors of each engine. Default: all of the smallest node.",
)
@click.option("--top-k", default=5, show_default=True, type=click.IntRange(min=1), help="Classes in each row.")
@click.option("--coverage", type=_share, metavar="SHARE", help="Also the prediction set, as for dhvt classify.")
@click.option("--by-class", is_flag=True, help="--coverage shall hold within each class, and not only on average over all.")
@click.option("--reject", type=_share, metavar="SHARE", help="Also whether the image is known, as for dhvt classify.")
@click.argument("source")
def bulk(
    model: str | None,
    engine: str | None,
    out: Path,
    address: str | None,
    threads: int,
    top_k: int,
    coverage: float | None,
    by_class: bool,
    reject: float | None,
    source: str,
) -> None:
    """Classify all images of SOURCE, however many, into Parquet files; needs ray: pip install 'dhvt-serve[bulk]'.

    SOURCE is a folder, a pattern, a .txt file with a path in each line, tar archives or Parquet files; local, or a URL that
    fsspec opens, as s3://bucket/folder.

    \b
    On this machine:
      dhvt bulk --model runs/mine/artifact --out answers/ photos/
    On a cluster, from a bucket:
      dhvt bulk --model runs/mine/artifact --out answers/ --address auto 's3://bucket/shards/*.tar'

    A file of the output is there whole or not at all. Whatever stops the job, the same command goes on with it, and at the end
    each image is in the output once; a finished job has nothing left to do. An image that cannot be read is a row with its
    error. At the end there is a summary, also as OUT/_job/summary.json: class shares, errors, and whether the images are like
    the model's reference images.
    """
    from dhvt.assessment import Asked, Assessor
    from dhvt.bulk.job import BulkJob
    from dhvt.bulk.pipeline import BulkSettings
    from dhvt.bulk.summary import describe, summarise
    from dhvt.engines import EngineSettings

    if by_class and coverage is None:
        raise click.UsageError("--by-class needs --coverage")
    defaults = EngineSettings.from_environ()
    artifact = defaults.load_artifact(model)
    Assessor(artifact, "fp32").require(Asked(coverage=coverage, by_class=by_class, reject=reject))
    settings = BulkSettings(
        address=address,
        engine=engine or defaults.engine,
        threads=threads or defaults.threads,
        top_k=top_k,
        coverage=coverage,
        by_class=by_class,
        reject=reject,
    )
    card, place = artifact.card, source if "://" in source else str(Path(source).absolute())
    identity = {"model": card.name, "version": card.version, "digest": card.digest, "source": place, "asked": settings.asked()}
    job = BulkJob(out, identity)
    missing = job.missing()
    if (done := len(job.units) - len(missing)) > 0:
        click.echo(f"going on: {done:,} of {len(job.units):,} files are there", err=True)
    if missing:
        _classify(job, missing, artifact, settings)
    summary = summarise(job, artifact)
    job.write_summary(summary)
    for line in describe(summary):
        click.echo(line)


def _classify(job: BulkJob, missing: list[int], artifact: Artifact, settings: BulkSettings) -> None:
    """Writes the missing files, with a progress bar."""
    from tqdm import tqdm

    from dhvt.bulk.pipeline import run_units
    from dhvt.engines import EngineSettings, check_engine
    from dhvt.hardware.cpus import available_cpus

    if settings.address is None:  # an engine that cannot run is one line here, and many from Ray
        defaults = EngineSettings.from_environ()
        threads, largest = settings.threads or available_cpus(), defaults.max_batch_size
        check_engine(artifact, settings.engine, threads=threads, max_batch_size=largest, prefer=defaults.prefer)
    units = {number: job.units[number] for number in missing}
    sizes = [unit.images for unit in units.values()]
    total = None if None in sizes else sum(size for size in sizes if size is not None)
    start, done = time.monotonic(), 0
    with tqdm(total=total, unit="image", smoothing=0.05, disable=None) as bar:
        for number, table, images in run_units(artifact, units, settings):
            if table is not None:
                job.write(number, table)
            done += images
            bar.update(images)
    seconds = time.monotonic() - start
    click.echo(f"{done:,} images in {seconds:,.0f} s, {done / seconds:,.0f} images/s with the start", err=True)
