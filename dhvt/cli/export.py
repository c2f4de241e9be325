"""``dhvt export``: from a checkpoint to a model folder. Its options are the fields of the export's and targets' settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dhvt.cli.field_options import field_options

_HELP = """\
Export a checkpoint to a model folder that `DHVT_MODEL=… bentoml serve` takes, or add to such a folder.

\b
Targets, in the model folder:
{targets}
\b
Targets beside the model folder, for other tools:
{layouts}

Every graph is compared with PyTorch's float32, at several batch sizes, before anything is written; where one disagrees,
nothing is. Of a run's folder best.pt is exported, the epoch with the lowest validation loss.

With the target onnx the model folder is replaced in one step; other targets are added to it, and from the folder alone they
need no checkpoint (tensorrt then in fp16 or fp32).

\b
Examples:
  dhvt export runs/mine --data images/ --name hands
  dhvt export runs/mine/ckpt.pt --target onnx --target int8 --data images/
  dhvt export runs/mine/ckpt.pt --target timm --push me/hands
  dhvt export runs/mine/artifact --target triton --triton-max-batch-size 32
"""


def _target_options(command: Callable[..., None]) -> Any:
    from export.settings import ExportOptions
    from export.targets.registry import LAYOUTS, TARGETS, load_layout, load_target

    for name in reversed(LAYOUTS):
        command = field_options(load_layout(name).settings, prefix=f"{name}: ", show_defaults=True)(command)
    for name in reversed(TARGETS):
        command = field_options(load_target(name).settings, prefix=f"{name}: ", show_defaults=True)(command)
    command = field_options(ExportOptions)(command)
    command = click.option(
        "--target",
        "targets",
        type=click.Choice([*TARGETS, *LAYOUTS]),
        multiple=True,
        default=TARGETS[:1],
        show_default=True,
        help="Format to export to; may be given several times.",
    )(command)
    listed = "\n".join(f"  {name:10}{load_target(name).help}" for name in TARGETS)
    layouts = "\n".join(f"  {name:10}{load_layout(name).help}" for name in LAYOUTS)
    return click.command(help=_HELP.format(targets=listed, layouts=layouts))(command)


@_target_options
@click.argument("source", type=click.Path(path_type=Path), metavar="CHECKPOINT|RUN|MODEL")
@click.option("--out", type=click.Path(path_type=Path), help="Model folder to write. Default: artifact/ beside the checkpoint.")
@click.option("--tag", help="Also put it into BentoML's model store, as hands or hands:v2, and name it so.")
@click.pass_context
def export(
    ctx: click.Context, /, source: Path, out: Path | None, targets: tuple[str, ...], tag: str | None, **given: Any
) -> None:
    from export.command import run_export

    run_export(source, out, targets, given, tag, ctx.find_root().obj)
