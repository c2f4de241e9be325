"""Options that the commands of ``dhvt`` share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dhvt.cli.field_options import field_option
from dhvt.training.config import RunOptions

Command = Callable[..., None]


on_broken_option = field_option(RunOptions, "on_broken")

model_option = click.option(
    "--model", type=click.Path(path_type=Path), help="Model folder from export. Default: DHVT_MODEL, else the bundled one."
)


def engine_options(command: Command) -> Command:
    command = click.option(
        "--engine",
        default="auto",
        show_default=True,
        help="auto, tensorrt, onnxruntime-tensorrt, onnxruntime-cuda, openvino, onnxruntime; with a precision openvino:fp32.",
    )(command)
    return model_option(command)


def open_model(model: Path | None, engine: str) -> tuple[Any, Any]:
    """The verified artifact and the engine that would serve it."""
    from dhvt.artifact import load_artifact
    from dhvt.engines import open_engine
    from dhvt.hardware.cpus import available_cpus
    from serving.settings import Settings

    artifact = load_artifact(model or Settings.from_environ().model_path())
    return artifact, open_engine(artifact, engine, threads=available_cpus()).engine
