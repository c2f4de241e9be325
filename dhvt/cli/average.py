"""``dhvt average``: one checkpoint of several."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dhvt.cli.options import omit_broken, on_broken_option
from dhvt.errors import ConfigError, DataError

if TYPE_CHECKING:
    from dhvt.data.sources import ImageSource
    from dhvt.evaluation.metrics import Evaluation
    from dhvt.model.checkpoint import Checkpoint

_HELP = """\
Average the weights of several checkpoints of one run, which is often better than the best of them.

Copy ckpt.pt away before you go on with --resume --change-recipe and more --epochs: the ends of both, averaged, gain most.

BatchNorm's statistics are averaged and also recomputed on training images; what measures better on the held-out images is
kept.
"""


@click.command(help=_HELP)
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="CKPT CKPT…")
@click.option("--data", required=True, help="As in the training: the images that it held out measure the average.")
@click.option("--val", help="What was given to dhvt train as --val, where it did not hold images out of --data.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The checkpoint to write.")
@on_broken_option
def average(checkpoints: tuple[Path, ...], data: str, val: str | None, out: Path, on_broken: str) -> None:

    from dhvt.data.reopen import open_training_split, reopen_validation
    from dhvt.model.checkpoint import load_checkpoint, save_checkpoint
    from dhvt.training.averaging import average_checkpoints, recompute_batchnorm

    if out.exists():
        raise ConfigError(f"{out} exists; choose another --out")
    if not out.parent.is_dir():
        raise ConfigError(f"there is no folder {out.parent}; make it, or choose another --out")
    loaded = [load_checkpoint(path) for path in checkpoints]
    mean = average_checkpoints(loaded)
    found = reopen_validation(data if val is None else val, mean.classes, mean.data, mean.recipe.get("seed", 0))
    if found is None:
        where = f"--data {data}" if val is None else f"--val {val}"
        raise DataError(
            f"{where} has not got the images that the training validated on; give its --data, and its --val if it had one"
        )
    train, source = found
    if val is not None:
        train = open_training_split(data, mean.classes, mean.data, mean.recipe.get("seed", 0))

    on_error = omit_broken(on_broken)
    for path, checkpoint in zip(checkpoints, loaded, strict=True):
        _measure(str(path), checkpoint, source, on_error)
    candidates = {"their average": mean}
    recomputed = None if train is None else recompute_batchnorm(mean, train, on_error)
    if recomputed is not None:
        candidates["their average with BatchNorm's statistics recomputed on training images"] = recomputed
    measured = {name: _measure(name, checkpoint, source, on_error) for name, checkpoint in candidates.items()}
    best = max(measured, key=lambda name: (measured[name][0].top1, -measured[name][0].nll))
    if len(candidates) > 1:
        click.echo(f"kept: {best}")
    was_chosen = len(candidates) > 1 or any(checkpoint.metrics.get("val_chose_weights") for checkpoint in loaded)
    save_checkpoint(_with_measurement(candidates[best], *measured[best], was_chosen), out)
    click.echo(f"next: {shlex.join(['dhvt', 'export', str(out), '--data', data, *([] if val is None else ['--val', val])])}")


def _measure(
    name: str, checkpoint: Checkpoint, source: ImageSource, on_error: Callable[[str], None] | None
) -> tuple[Evaluation, float]:
    """Measures and prints one line."""
    from tqdm import tqdm

    from dhvt.training.averaging import measure

    with tqdm(total=len(source), unit="image", desc=name, leave=False) as bar:
        result, temperature = measure(checkpoint, source, bar.update, on_error)
    click.echo(f"{name}: top-1 {result.top1:.2f} %, log loss {result.nll:.4f}, of {result.images} held-out images")
    return result, temperature


def _with_measurement(mean: Checkpoint, result: Evaluation, temperature: float, was_chosen: bool) -> Checkpoint:
    """The average with what was measured of it, whether that chose anything of it, and this command."""
    command = {"from_step": mean.step, "command": click.get_current_context().find_root().obj}
    provenance = mean.provenance | {"commands": [*mean.provenance.get("commands", []), command]}
    metrics = {f"val_{name}": value for name, value in result.to_dict().items() if name != "skipped"}
    if was_chosen:
        metrics["val_chose_weights"] = True
    return replace(mean, temperature=temperature, metrics=metrics, provenance=provenance)
