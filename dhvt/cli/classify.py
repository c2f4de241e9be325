"""``dhvt classify``: the classes of image files, without a server."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from dhvt.cli.options import engine_options, open_model


@click.command()
@engine_options
@click.option("--top-k", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--json", "as_json", is_flag=True, help="One JSON object per image, as the server answers.")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
def classify(model: Path | None, engine: str | None, top_k: int, as_json: bool, images: tuple[Path, ...]) -> None:
    """Say what is on IMAGES. One that cannot be read is reported, and the exit code is then 1."""
    from dhvt.data.decode import read_file
    from dhvt.data.preprocess import preprocess_image
    from dhvt.errors import ImageError
    from dhvt.ranking import rank

    artifact, running = open_model(model, engine)
    failed = False
    for path in images:
        try:
            pixels = preprocess_image(read_file(path), artifact.card.preprocess)
        except ImageError as error:
            click.echo(f"{path}: {error}", err=True)
            failed = True
            continue
        predictions = rank(running.predict(pixels[None]), artifact.card)[0].top(artifact.card, top_k)
        if as_json:
            click.echo(json.dumps({"file": str(path), "model": artifact.card.name, "predictions": predictions}))
        else:
            click.echo(f"{path}: " + ", ".join(f"{entry['label']} {entry['score']:.1%}" for entry in predictions))
    sys.exit(1 if failed else 0)
