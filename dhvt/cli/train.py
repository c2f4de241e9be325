"""``dhvt train``: from a folder of images to a checkpoint. Its options are the fields of training/config.py and recipe.py."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from dhvt.cli.field_options import field_options, parse_assignment
from dhvt.confidence.shares import wilson_interval
from dhvt.training.config import Recipe, RunOptions
from dhvt.training.run_file import build_config, merge_values, read_config

_HELP = """\
Train a DHVT from scratch.

Saves after every epoch and every few minutes; Ctrl-C saves too; --resume goes on exactly where it stopped.

On a CPU it restarts itself with jemalloc or tcmalloc preloaded where one is installed, which is a tenth to a half faster;
set LD_PRELOAD, if only to nothing, to prevent that.

On several GPUs or machines: torchrun --nproc-per-node 4 -m dhvt.cli train …, or accelerate launch; the recipe's
batch size is that of all of them together. With --resume, machines without a common disk all get the newest
checkpoint that one of them has.
"""


@click.command(help=_HELP)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    metavar="TOML",
    help="File with any of these options, named with underscores; those on the command line come first, "
    "and a --recipe there replaces all of the file's recipe. Each run writes its own to OUT/config.toml, which repeats it.",
)
@field_options(RunOptions, show_defaults=True)
@field_options(Recipe, prefix="Recipe: ")
@click.pass_context
def train(ctx: click.Context, /, config_path: Path | None, model_options: tuple[str, ...], **given: Any) -> None:
    from dhvt.training.distributed import is_main_process
    from dhvt.training.run import BEST_NAME, CHECKPOINT_NAME
    from dhvt.training.trainer import train as run_training

    values = read_config(config_path) if config_path is not None else {}
    values = merge_values(values, {name: value for name, value in given.items() if value is not None})
    values["model_options"] = values.get("model_options", {}) | dict(map(parse_assignment, model_options))
    options, recipe = build_config(values)
    path = options.out / CHECKPOINT_NAME
    log = click.echo if is_main_process() else lambda message: None
    try:
        checkpoint = run_training(options, recipe, command=ctx.find_root().obj)
    except KeyboardInterrupt:
        if path.exists():
            log(f"stopped; go on with the same command and --resume ({path})")
        else:
            log("stopped before the first checkpoint: nothing is saved")
        sys.exit(130)
    log(f"validation {_top1(checkpoint.metrics)}; saved {path}")
    if checkpoint.best:
        log(
            f"lowest validation loss {checkpoint.best['val_loss']:.3f} in epoch {checkpoint.best['epoch']}; "
            f"saved {options.out / BEST_NAME}, which is what the next command takes"
        )
    val = [] if options.val is None else ["--val", options.val]
    log(f"next: {shlex.join(['dhvt', 'export', str(options.out), '--data', options.data, *val])}")


def _top1(metrics: Mapping[str, Any]) -> str:
    """Top-1 with its 95 % interval, which is wide where there are few validation images."""
    low, high = wilson_interval(metrics["val_top1"] / 100, metrics["val_images"])
    return f"top-1 {metrics['val_top1']:.2f} % ({100 * low:.1f} to {100 * high:.1f} with {metrics['val_images']:,} images)"
