"""The formats that a model can be exported to: each is one file beside this one, named here.

A new target is a file with a ``TARGET`` and its name in :data:`TARGETS`. It imports what it needs inside ``add``, because
``dhvt export --help`` reads its settings. The settings of all targets share the command's options, so their fields have
different names. ``job.source`` writes the model as ONNX (``write_graph``) and gives the reference logits; a target starts from
these. A variant's files are plain files in the model folder, listed in the card with their hashes; formats and file names are
constants of :mod:`dhvt.artifact`. What cannot be run here to compare says so in ``parity``. Its extra goes into pyproject.toml,
a row into docs/artifact.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dhvt.artifact import ModelCard
from dhvt.errors import ExportError

if TYPE_CHECKING:  # PyTorch and ONNX are imported when something is exported
    from dhvt.artifact import Artifact
    from dhvt.model.checkpoint import Checkpoint
    from export.images import ExportImages
    from export.source import Source

TARGETS = ("onnx", "explain", "int8", "tensorrt")
"""``--target NAME`` is ``TARGET`` in ``export/targets/NAME.py``; in the order in which they are added to the artifact."""

LAYOUTS = ("timm", "triton")
"""``--target NAME`` is ``LAYOUT`` in ``export/targets/NAME.py``: a folder of its own, beside the artifact."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a target works with.

    Args:
        source: the model in float32.
        images: real images to calibrate and compare with, or None.
        folder: the model folder that is being written; from the second target on it holds ``model.onnx``.
        log: prints a line, as :func:`click.echo` does; with ``err=True`` to standard error.
    """

    source: Source
    images: ExportImages | None
    folder: Path
    log: Callable[..., None]


@dataclass(frozen=True, kw_only=True)
class Target:
    """One format to export to.

    Args:
        help: one sentence for ``dhvt export --help``.
        settings: a dataclass whose fields are options of ``dhvt export``; see :func:`dhvt.training.fields.option`.
        packages: what must be importable, by the name that Python has for it.
        install: the extras that bring these.
        needs_images: why it needs ``--data``; empty where it does not.
        add: writes the variant's files into the job's folder; returns the card with the variant, or as it was where the
            variant is dropped. Raises ExportError or ParityError.
    """

    help: str
    settings: type[Any]
    packages: tuple[str, ...]
    install: str
    needs_images: str = ""
    add: Callable[[Job, ModelCard, Any], ModelCard]


@dataclass(frozen=True, kw_only=True)
class LayoutJob:
    """What a layout works with.

    Args:
        card: what is known of the model.
        checkpoint: the trained model, or None where a model folder is exported.
        artifact: the model folder; None for a layout that does not need it where there is none.
        images: real images to compare on, or None.
        parent: the folder to write into; it has other things in it.
        log: see :class:`Job`.
    """

    card: ModelCard
    checkpoint: Checkpoint | None
    artifact: Artifact | None
    images: ExportImages | None
    parent: Path
    log: Callable[..., None]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A folder as another tool reads it, beside the artifact.

    Args:
        help, settings, packages, install: see :class:`Target`.
        needs: what it is made of.
        write: writes the folder in one step, and logs where and what to do with it. Raises ExportError.
    """

    help: str
    settings: type[Any]
    packages: tuple[str, ...]
    install: str
    needs: Literal["checkpoint", "artifact"]
    write: Callable[[LayoutJob, Any], None]


def load_layout(name: str) -> Layout:
    """The layout of this name, one of :data:`LAYOUTS`."""
    layout: Layout = import_module(f"export.targets.{name}").LAYOUT
    return layout


def load_target(name: str) -> Target:
    """The target of this name.

    Raises:
        ExportError: there is none.
    """
    if name not in TARGETS:
        raise ExportError(f"no export target {name!r}; choose one of {', '.join(TARGETS)}")
    target: Target = import_module(f"export.targets.{name}").TARGET
    return target


def require_packages(names: Sequence[str]) -> None:
    """Checks that all that these targets import is installed.

    Raises:
        ExportError: it is not; with what to install.
    """
    for name in names:
        target = load_layout(name) if name in LAYOUTS else load_target(name)
        missing = [package for package in target.packages if find_spec(package) is None]
        if missing:
            raise ExportError(f"exporting to {name} needs {', '.join(missing)}, not installed here; {target.install}")


def complete_settings(names: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of each target: those given, else the defaults.

    Raises:
        ExportError: settings are given for a target that is not among them.
    """
    unused = sorted(set(given) - set(names))
    if unused:
        raise ExportError(f"settings for {', '.join(unused)}, but the targets are {', '.join(names)}")
    return {name: given[name] if name in given else load_target(name).settings() for name in names}
