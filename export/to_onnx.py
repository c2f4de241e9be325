"""``python export/to_onnx.py runs/mine/ckpt.pt --data images/`` is ``dhvt export`` to onnx, with ``--int8`` to int8 too."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a script: the folder above holds the packages
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click

from dhvt.cli.field_options import field_options
from dhvt.errors import DHVTError
from export.command import run_export
from export.settings import ExportOptions, OnnxSettings


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write. Default: artifact/ beside the checkpoint.")
@field_options(ExportOptions)
@click.option("--int8", is_flag=True, help="Add a graph in int8, where it keeps the accuracy on --data and is faster here.")
@field_options(OnnxSettings, show_defaults=True)
@click.option("--tag", help="Also put it into BentoML's model store, as hands or hands:v2, and name it so.")
def main(checkpoint: Path, out: Path | None, int8: bool, tag: str | None, **given: Any) -> None:
    """Export CHECKPOINT to a model folder that `DHVT_MODEL=… bentoml serve` takes.

    The graph is compared with PyTorch in every runtime that is installed, at several batch sizes, before anything is
    written; one that disagrees is not written. An artifact already there is replaced in one step.
    """
    command = shlex.join(["python", "export/to_onnx.py", *sys.argv[1:]])
    try:
        run_export(checkpoint, out, ("onnx", "int8") if int8 else ("onnx",), given, tag, command)
    except DHVTError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
