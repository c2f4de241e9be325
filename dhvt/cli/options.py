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
        help="auto, tensorrt, onnxruntime-tensorrt, onnxruntime-cuda, openvino, onnxruntime; with a precision openvino:fp32. "
        "Default: DHVT_ENGINE, else auto.",
    )(command)
    return model_option(command)


def open_model(model: Path | None, engine: str | None) -> tuple[Any, Any]:
    """The verified artifact and the engine that would serve it; what is None comes from DHVT_MODEL and DHVT_ENGINE."""
    from dhvt.artifact import load_artifact
    from dhvt.engines import EngineSettings, open_engine
    from dhvt.hardware.cpus import available_cpus

    settings = EngineSettings.from_environ()
    artifact = load_artifact(model or settings.model_path())
    return artifact, open_engine(artifact, engine or settings.engine, threads=settings.threads or available_cpus()).engine
