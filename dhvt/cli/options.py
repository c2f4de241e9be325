"""Options that the commands of ``dhvt`` share, and the recipe's, which come from its fields."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from dhvt.training.recipe import TrainRecipe

Command = Callable[..., None]


def recipe_options(command: Command) -> Command:
    """One option per recipe field, so that ``--epochs 3`` overrides the preset."""
    for field in reversed(fields(TrainRecipe)):
        kind = _Pairs() if isinstance(field.default, tuple) else type(field.default)
        command = click.option(f"--{field.name.replace('_', '-')}", field.name, type=kind, help=f"Recipe: {_HELP[field.name]}")(
            command
        )
    return command


class _Pairs(click.ParamType[Any]):
    """``0.5:0.5,1:1`` as pairs of numbers."""

    name = "FRACTION:SCALE,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            pairs = [tuple(map(float, pair.split(":"))) for pair in value.split(",")]
        except ValueError:
            pairs = []
        if not pairs or any(len(pair) != 2 for pair in pairs):
            self.fail(f"{value!r} is not of the form 0.5:0.5,1:1", param, ctx)
        return pairs


def _argument_docs(documented: type) -> dict[str, str]:
    """What a docstring in Google's style says of each argument, as one line each."""
    section = inspect.cleandoc(documented.__doc__ or "").partition("Args:\n")[2].partition("\n\n")[0]
    docs: dict[str, str] = {}
    for entry in re.split(r"\n    (?=\w)", section.removeprefix("    ")):
        names, _, text = entry.partition(": ")
        docs |= {name: " ".join(text.split()).replace("``", "") for name in names.split(", ")}
    return docs


_HELP = _argument_docs(TrainRecipe)


def parse_field(text: str) -> tuple[str, Any]:
    """``depth=6`` as a name and a JSON value; what is no JSON is a string."""
    name, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{text!r} is not of the form FIELD=VALUE", param_hint="--model-option")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


on_broken_option = click.option(
    "--on-broken",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="What to do with an image that cannot be read.",
)

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
