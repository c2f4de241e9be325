"""``dhvt explain``: what in an image an answer depends on, drawn over it."""

from __future__ import annotations

from pathlib import Path

import click

from dhvt.cli.options import engine_options, load_classifier
from dhvt.explanation.explanation import DEFAULT_METHOD, METHODS
from dhvt.explanation.masking import DEFAULT_MASKS, LEAST_MASKS


@click.command()
@engine_options
@click.option("--label", help="Class to explain. Default: the most likely one.")
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default=DEFAULT_METHOD,
    show_default=True,
    help="masking: where the class becomes more likely when a place is shown, for any model. head-tokens, rollout: attention "
    "of a DHVT, the same for every class.",
)
@click.option("--layer", type=click.IntRange(min=1), help="Layer whose attention is drawn. Default: the last.")
@click.option(
    "--masks",
    type=click.IntRange(min=LEAST_MASKS),
    help=f"Masked images to classify with masking; more give a map with less noise. Default: {DEFAULT_MASKS}.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the masks.")
@click.option("--json", "as_json", is_flag=True, help="Print the maps' values as JSON.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="PNG file to write: the image, and beside it each map over it.",
)
@click.argument("image", type=click.Path(path_type=Path))
def explain(
    model: str | None,
    engine: str | None,
    label: str | None,
    method: str,
    layer: int | None,
    masks: int | None,
    seed: int,
    as_json: bool,
    output: Path | None,
    image: Path,
) -> None:
    """Draw what in IMAGE the model's answer depends on.

    \b
    Where the bundled CIFAR-10 model sees what it answers:
      dhvt explain cat.jpg -o why.png
    What each head token of the sixth layer attends to:
      dhvt explain --model runs/mine/artifact --method head-tokens --layer 6 cat.jpg -o heads.png

    The exit code is 1 where the image cannot be read or the model has no such class, layer or attention. It is 2 where the
    command line is wrong.
    """
    import json

    from dhvt.data.decode import read_file
    from dhvt.errors import ImageError

    if output is None and not as_json:
        raise click.UsageError("nothing to do: give -o FILE.png, or --json")
    data = read_file(image)
    classifier = load_classifier(model, engine)
    try:
        found = classifier.explain(data, label=label, method=method, layer=layer, masks=masks, seed=seed)
    except ImageError as error:
        raise ImageError(f"{image}: {error}") from error
    card = classifier.artifact.card
    if as_json:
        click.echo(json.dumps({"file": str(image), "model": card.name, "version": card.version, **found.to_dict()}))
    if output is not None:
        try:
            output.write_bytes(found.to_png())
        except OSError as error:
            raise click.ClickException(f"cannot write {output}: {error.strerror}") from error
        click.echo(f"{found.label} {found.score:.1%}: {output}", err=as_json)
