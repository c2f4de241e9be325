"""``python export/to_trt.py runs/mine/ckpt.pt`` is ``dhvt export --target tensorrt``."""

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
from export.settings import ExportOptions, TensorRTSettings


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", type=click.Path(path_type=Path), metavar="CHECKPOINT|ARTIFACT")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Model folder to add the engine to. Default: artifact/ beside the checkpoint.",
)
@field_options(ExportOptions)
@field_options(TensorRTSettings, show_defaults=True)
def main(source: Path, out: Path | None, **given: Any) -> None:
    """Compile a model with TensorRT and add the engine to its model folder.

    From the checkpoint, or from the model folder alone, as on a server that has nothing else: then in fp16 or fp32.

    tensorrt builds for the GPU of this machine. tensorrt_rtx (GeForce and RTX GPUs) needs no GPU to build.
    The graph in the chosen precision is compared with float32 on the CPU before anything is built; the engine is then
    compared too, where there is a GPU to run it on.
    """
    command = shlex.join(["python", "export/to_trt.py", *sys.argv[1:]])
    try:
        run_export(source, out, ("tensorrt",), given, None, command)
    except DHVTError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
