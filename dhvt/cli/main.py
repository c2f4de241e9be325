"""The ``dhvt`` command. Each subcommand has a file of its own, which is imported when it is called or asked for help."""

from __future__ import annotations

import shlex
import sys
from difflib import get_close_matches
from importlib import import_module
from io import TextIOWrapper
from typing import Any

import click

from dhvt.errors import DHVTError

COMMANDS = ("check", "train", "average", "export", "calibrate", "evaluate", "verify", "sign", "classify", "bulk", "explain")
"""``dhvt NAME`` is the function NAME in ``dhvt/cli/NAME.py``; in the order of ``dhvt --help``."""


_EXTRAS = {
    "bulk": ("fsspec", "pandas", "ray"),
    "parquet": ("pyarrow",),
    "report": ("matplotlib",),
    "tracker": ("tensorboard",),
    "train": ("accelerate", "torch", "torchvision", "timm"),
    "cpu,export": ("nncf", "onnx", "onnxscript"),
    "gpu,trt": ("polygraphy", "tensorrt", "tensorrt_rtx"),
}
"""What to install for a package that is missing; otherwise ``cpu``."""


class _LazyGroup(click.Group):
    """Imports a subcommand when it is needed, and prints this project's errors as one line, without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"dhvt.cli.{cmd_name}"), cmd_name)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.obj = shlex.join(["dhvt", *args])
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and (near := get_close_matches(args[0], COMMANDS, n=1)):
            ctx.fail(f"No such command '{args[0]}'. Did you mean '{near[0]}'?")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DHVTError as error:
            raise click.ClickException(str(error)) from error
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            extra = next((extra for extra, packages in _EXTRAS.items() if package in packages), "cpu")
            raise click.ClickException(f"{package} is not installed; pip install 'dhvt-serve[{extra}]'") from error


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dhvt-serve")
def main() -> None:
    """Train a DHVT on your images, measure it, prove it here, and ask it what is on an image.

    \b
    dhvt check images/                            images/<class>/<image>
    dhvt train --data images/ --out runs/mine
    dhvt export runs/mine --data images/          writes runs/mine/artifact
    DHVT_MODEL=runs/mine/artifact bentoml serve
    """


def run() -> None:
    """The ``dhvt`` command as a process of its own."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.errors == "strict":  # a file's name need not be text
            stream.reconfigure(errors="backslashreplace")
    if sys.argv[1:2] == ["train"]:
        from dhvt.training.allocator import restart_with_allocator

        restart_with_allocator()
    main()
