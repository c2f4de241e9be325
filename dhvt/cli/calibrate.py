"""``dhvt calibrate``: an artifact's reference, from labelled images that the model has not seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dhvt.cli.options import exclude_option, leave_out, model_option, omit_broken, on_broken_option, read_fingerprint

if TYPE_CHECKING:
    from dhvt.artifact import Artifact
    from dhvt.confidence.reference import Reference
    from dhvt.data.sources import ImageSource


@click.command()
@model_option
@click.option("--data", required=True, help="Labelled images, laid out as for dhvt train, that the model has not seen.")
@click.option("--split", help="train, val or test. Default: test, or all images where the data has no splits.")
@on_broken_option
@exclude_option
def calibrate(model: str | None, data: str, split: str | None, on_broken: str, exclude: str | None) -> None:
    """Give a model reference images, so that it can say how sure its answers are.

    \b
      dhvt calibrate --model runs/mine/artifact --data new-images/
      dhvt classify --model runs/mine/artifact --coverage 0.95 one.jpg

    The images must be like those that will be classified, and neither have trained the model, nor chosen its epoch or
    temperature: those that the model's card knows are refused. Up to 10,000 are used, by chance where there are more. With n
    of them sets are possible up to a coverage of n/(n+1): 0.95 needs 19, and a few hundred make it steady. They are run in
    every precision that runs here; in others the reference of fp32 is used.

    It is written into the model folder, whose digest is another then. Images of the reference measure accuracy as before,
    but say nothing about coverage. A run that was trained with --calibration-fraction needs no such step.
    """
    from dhvt.confidence.reference import choose_images, write_reference
    from dhvt.confidence.sets import largest_coverage
    from dhvt.data.record import SEEN, require_unseen
    from dhvt.data.splits import open_test_data
    from dhvt.engines import EngineSettings

    artifact = EngineSettings.from_environ().load_artifact(model)
    source, _ = open_test_data(data, split, artifact.card.classes)
    if exclude is not None:
        source = leave_out(source, Path(exclude))
    source = choose_images(source)
    images = read_fingerprint(source)
    if artifact.card.data.keys() & set(SEEN):
        require_unseen(images, artifact.card.data)
    else:
        click.echo("model.json does not record what the model was trained on; it may have seen these images", err=True)
    reference = _measure(artifact, source, omit_broken(on_broken))
    before = artifact.card
    artifact = write_reference(artifact, reference, {**images.to_dict(), "source": source.origin})
    if artifact.card.metrics != before.metrics:
        click.echo("the card loses what was measured of its old reference: run dhvt evaluate --record again", err=True)
    click.echo(
        f"{artifact.card.name} {artifact.card.version} has {len(reference)} reference images, in "
        f"{', '.join(reference.measured)}; with them sets are possible up to a coverage of "
        f"{largest_coverage(len(reference)):g}"
    )


def _measure(artifact: Artifact, source: ImageSource, on_error: Callable[[str], None] | None) -> Reference:
    """Measures with a progress bar that counts each precision's images."""
    from tqdm import tqdm

    from dhvt.engines import EngineOptions, EngineSettings, measure_reference

    settings = EngineSettings.from_environ()
    options = EngineOptions(threads=settings.engine_threads(), max_batch_size=settings.max_batch_size)
    with tqdm(unit="image", leave=False) as bar:

        def begin(engine: str) -> None:
            bar.reset(len(source))
            bar.set_description(engine)

        return measure_reference(artifact, source, options, on_error=on_error, on_engine=begin, on_progress=bar.update)
