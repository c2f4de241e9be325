"""Options that the commands of ``dhvt`` share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dhvt.cli.field_options import field_option
from dhvt.errors import ConfigError
from dhvt.training.config import RunOptions

if TYPE_CHECKING:
    from dhvt.artifact import Artifact
    from dhvt.classifier import Classifier
    from dhvt.data.fingerprint import Fingerprint
    from dhvt.data.sources import ImageSource
    from dhvt.engines import Engine

Command = Callable[..., None]


on_broken_option = field_option(RunOptions, "on_broken")
exclude_option = field_option(RunOptions, "exclude")


def omit_broken(on_broken: str) -> Callable[[str], None] | None:
    """What becomes of the message about an image that cannot be read: a line on standard error, or None, which stops."""
    if on_broken == "stop":
        return None
    from tqdm import tqdm

    return lambda message: tqdm.write(f"omitted: {message}", file=sys.stderr)


model_option = click.option(
    "--model",
    metavar="FOLDER|TAG",
    help="Model folder from export, or a tag of BentoML's model store, as hands:latest. Default: DHVT_MODEL, else the bundled "
    "one.",
)


def engine_options(command: Command) -> Command:
    command = click.option(
        "--engine",
        help="auto, tensorrt, onnxruntime-tensorrt, onnxruntime-cuda, openvino or onnxruntime, also in a precision, as "
        "openvino:fp32. Default: DHVT_ENGINE, else auto.",
    )(command)
    return model_option(command)


def load_classifier(model: str | None, engine: str | None) -> Classifier:
    """The model and the engine that run it; what is None comes from DHVT_MODEL and DHVT_ENGINE."""
    from dhvt.classifier import Classifier
    from dhvt.engines import EngineSettings

    settings = EngineSettings.from_environ()
    return Classifier.load(
        settings.load_artifact(model),
        engine or settings.engine,
        threads=settings.threads,
        max_batch_size=settings.max_batch_size,
        prefer=settings.prefer,
    )


def open_model(model: str | None, engine: str | None) -> tuple[Artifact, Engine]:
    """As :func:`load_classifier`, for a command that needs the model and the engine themselves."""
    classifier = load_classifier(model, engine)
    return classifier.artifact, classifier.engine


def leave_out(source: ImageSource, path: Path) -> ImageSource:
    """The images that ``--exclude`` does not list; how many it does is printed."""
    from dhvt.data.exclusion import ExcludeList
    from dhvt.data.text import count

    listed = ExcludeList(path)
    source, names = listed.leave_out(source)
    click.echo(f"{count(len(names), 'image')} left out, as listed in {path}", err=True)
    if unmatched := listed.describe_unmatched():
        click.echo(unmatched, err=True)
    return source


def read_fingerprint(source: ImageSource) -> Fingerprint:
    """The fingerprint, with a progress bar where that takes long."""
    from tqdm import tqdm

    from dhvt.data.fingerprint import fingerprint

    with tqdm(total=len(source), unit="image", desc="fingerprint", leave=False, delay=2) as bar:
        return fingerprint(source, bar.update)


def require_writable(path: Path) -> None:
    """Refuses a file that cannot be written, before all images are read for it. Nothing is created.

    Raises:
        ConfigError: it is a folder, or in a place where this user may not write.
    """
    place = next(place for place in (path, *path.absolute().parents) if os.path.exists(place))
    problem = "is a folder" if place is path and path.is_dir() else None
    if place is not path and not place.is_dir():
        problem = f"{place} is a file"
    elif not os.access(place, os.W_OK):
        problem = f"{place} is not writable"
    if problem is not None:
        raise ConfigError(f"cannot write {path}: {problem}; choose another place")
