"""``dhvt average``: one checkpoint of several."""

from __future__ import annotations

from pathlib import Path

import click

from dhvt.cli.options import on_broken_option
from dhvt.errors import ConfigError, DataError


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="CKPT CKPT…")
@click.option("--data", required=True, help="As in the training: the images that it held out measure the average.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The checkpoint to write.")
@on_broken_option
def average(checkpoints: tuple[Path, ...], data: str, out: Path, on_broken: str) -> None:
    """Average the weights of several checkpoints of one run, which is often better than the best of them.

    Copy ckpt.pt away before you go on with --resume --change-recipe and more --epochs: the ends of both, averaged, gain most.
    """
    from dataclasses import replace

    from tqdm import tqdm

    from dhvt.data.splits import reopen_validation
    from dhvt.model.checkpoint import load_checkpoint, save_checkpoint
    from dhvt.training.averaging import average_checkpoints, measure

    if out.exists():
        raise ConfigError(f"{out} exists; choose another --out")
    loaded = [load_checkpoint(path) for path in checkpoints]
    mean = average_checkpoints(loaded)
    found = reopen_validation(data, mean.classes, mean.data, mean.recipe.get("seed", 0))
    if found is None:
        raise DataError(f"{data} is not known to have the images that the training held out; give its --data or --val")
    source = found[1]
    on_error = None if on_broken == "stop" else lambda message: tqdm.write(f"left out: {message}")
    for name, checkpoint in zip([*map(str, checkpoints), "their average"], [*loaded, mean], strict=True):
        with tqdm(total=len(source), unit="image", desc=name, leave=False) as bar:
            result, temperature = measure(checkpoint, source, bar.update, on_error)
        click.echo(f"{name}: top-1 {result.top1:.2f} %, log loss {result.nll:.4f}, of {result.images} held-out images")
    command = {"from_step": mean.step, "command": click.get_current_context().find_root().obj}
    provenance = mean.provenance | {"commands": [*mean.provenance.get("commands", []), command]}
    metrics = {"val_top1": result.top1, "val_top5": result.top5, "val_ece": result.ece, "val_images": result.images}
    save_checkpoint(replace(mean, temperature=temperature, metrics=metrics, provenance=provenance), out)
    click.echo(f"next: python export/to_onnx.py {out} --data {data}")
