"""What ``dhvt export`` and its two older scripts do with their options."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click

from dhvt.artifact import CARD_NAME, Artifact
from dhvt.errors import ExportError
from export.settings import ExportOptions
from export.targets.registry import LAYOUTS, TARGETS, load_layout, load_target, require_packages


def run_export(
    source: Path, out: Path | None, targets: Sequence[str], given: Mapping[str, Any], tag: str | None, command: str
) -> None:
    """Exports, and prints what was measured, where it was written, and what to do next.

    Args:
        source: a checkpoint, the folder of a run, or a model folder.
        out: the folder to write; ``artifact/`` beside the checkpoint, or the model folder, by default.
        given: options of :class:`ExportOptions` and of the targets' settings, None or empty where not given.
        tag: name in BentoML's model store, if any.
        command: recorded in the artifact.

    Raises:
        DHVTError: see :func:`export.pipeline.export_model`.
    """
    values = {name: value for name, value in given.items() if value not in (None, (), [])}
    options = ExportOptions(**_take(values, ExportOptions))
    kinds = {name: (load_layout(name) if name in LAYOUTS else load_target(name)).settings for name in targets}
    settings = {name: kind(**_take(values, kind)) for name, kind in kinds.items()}
    if values:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in values)
        raise ExportError(f"{names} fits none of the targets {', '.join(targets)}; leave it out, or name its --target")
    require_packages(targets)
    if tag and set(targets) <= set(LAYOUTS):
        raise ExportError(f"--tag stores a model folder, which {', '.join(targets)} is not; leave it out, or add --target onnx")
    if tag:
        options = _name_after_tag(options, tag)
    folder = export(source, out, targets, options, settings, command)
    if tag:
        from dhvt.artifact import load_artifact
        from dhvt.store import store_artifact

        stored = store_artifact(load_artifact(folder), tag)
        click.echo(f"stored {stored}; serve it with DHVT_MODEL={shlex.quote(stored)} bentoml serve")


def _name_after_tag(options: ExportOptions, tag: str) -> ExportOptions:
    """The options with the tag's name and version, where none are given."""
    name, _, version = tag.partition(":")
    return replace(options, name=options.name or name, version=options.version or version or None)


def _take(values: dict[str, Any], configuration: type[Any]) -> dict[str, Any]:
    """Moves the fields of ``configuration`` out of ``values``."""
    names = [entry.name for entry in fields(configuration) if entry.name in values]
    return {name: list(value) if isinstance(value := values.pop(name), tuple) else value for name in names}


def find_checkpoint(source: Path) -> Path:
    """Of a run's folder its ``best.pt``, or its ``ckpt.pt`` where validation has chosen none; anything else stays."""
    if os.path.exists(source / CARD_NAME):
        return source
    found = next((source / name for name in ("best.pt", "ckpt.pt") if os.path.isfile(source / name)), None)
    if found is None:
        return source
    click.echo(f"{source} is the folder of a run: exporting {found.name}")
    return found


def export(
    source: Path,
    out: Path | None,
    targets: Sequence[str],
    options: ExportOptions,
    settings: Mapping[str, Any],
    command: str,
) -> Path:
    """Opens the source and exports it; PyTorch is imported here.

    Returns:
        The model folder, which a layout alone may not need.
    """
    from dhvt.artifact import load_artifact
    from dhvt.evaluation.calibration import describe_limit
    from dhvt.model.checkpoint import Checkpoint, load_checkpoint
    from export.layouts import export_layouts, require_weights

    source = find_checkpoint(source)
    loaded: Checkpoint | Artifact = load_artifact(source) if os.path.isdir(source) else load_checkpoint(source)
    if isinstance(loaded, Checkpoint) and "val_images" in loaded.metrics:
        warning = describe_limit(loaded.temperature, loaded.metrics["val_images"])
        if warning is not None:
            click.echo(warning, err=True)
    if isinstance(loaded, Artifact) and out is not None:
        raise ExportError(f"--out is for a checkpoint; what is exported goes into {source}, which is a model folder")
    if source.name in ("", ".."):
        source = source.resolve()  # which knows what it lies in
    folder = source if isinstance(loaded, Artifact) else out or source.parent / "artifact"
    variants = [name for name in targets if name in TARGETS]
    layouts = [name for name in targets if name in LAYOUTS]
    require_weights(loaded, folder, layouts)
    if variants:
        from export.pipeline import export_model

        given = {name: settings[name] for name in variants}
        artifact = export_model(loaded, folder, variants, options, given, command=command, log=click.echo)
        click.echo(f"wrote {folder}; serve it with DHVT_MODEL={shlex.quote(str(folder))} bentoml serve")
        loaded = artifact if isinstance(loaded, Artifact) else loaded
    if layouts:
        export_layouts(loaded, folder, layouts, options, settings, command=command, log=click.echo)
    return folder
