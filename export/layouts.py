"""Writing layouts: folders as other tools read them, beside the artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dhvt.artifact import Artifact, ModelCard, load_artifact
from dhvt.errors import ExportError
from dhvt.model.checkpoint import Checkpoint
from dhvt.naming import name_of_data
from export.pipeline import BASE, export_model, open_card_images, require_same_model
from export.settings import ExportOptions
from export.source import CheckpointSource
from export.targets.registry import LayoutJob, load_layout


def export_layouts(
    source: Checkpoint | Artifact,
    folder: Path,
    names: Sequence[str],
    options: ExportOptions | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    command: str = "",
    log: Callable[..., None],
) -> None:
    """Writes layouts into the folder around the artifact's; each of them in one step.

    Args:
        source: a trained model, or an artifact.
        folder: the artifact's folder. Where there is none and a layout needs one, it is exported first.
        names: of :data:`export.targets.registry.LAYOUTS`.
        options: a name or version given here is written in place of the artifact's.
        settings: by layout; defaults where absent.
        command: recorded in an artifact that is exported.
        log: see :class:`export.targets.registry.LayoutJob`.

    Raises:
        ExportError: a layout needs a checkpoint, cannot be made of this model, or the artifact is of another model.
        ParityError: the written model disagrees with the exported one.
    """
    options = options or ExportOptions()
    require_weights(source, folder, names)
    layouts = {name: load_layout(name) for name in names}
    checkpoint = source if isinstance(source, Checkpoint) else None
    needs = {layout.needs for layout in layouts.values()}
    artifact = source if isinstance(source, Artifact) else None
    if checkpoint is not None:
        artifact = _find_artifact(checkpoint, folder, options, "artifact" in needs, command, log)
    if artifact is not None and options.resize_mode not in (None, artifact.card.preprocess.resize_mode):
        raise ExportError(f"{folder} has its resize mode already; --resize-mode needs --target {BASE}, from a checkpoint")
    card = _find_card(checkpoint, artifact, options)
    images = open_card_images(card, options, log) if "checkpoint" in needs else None  # to compare its weights on
    for name, layout in layouts.items():
        values = (settings or {}).get(name) or layout.settings()
        job = LayoutJob(card=card, checkpoint=checkpoint, artifact=artifact, images=images, parent=folder.parent, log=log)
        layout.write(job, values)


def require_weights(source: Checkpoint | Artifact, folder: Path, names: Sequence[str]) -> None:
    """Checks that the source has what the layouts are made of.

    Raises:
        ExportError: one needs a checkpoint, and this is a model folder.
    """
    for name in names:
        if isinstance(source, Artifact) and load_layout(name).needs == "checkpoint":
            raise ExportError(f"{folder} is a model folder, which has no weights for {name}; give its checkpoint")


def _find_artifact(
    checkpoint: Checkpoint, folder: Path, options: ExportOptions, needed: bool, command: str, log: Callable[..., None]
) -> Artifact | None:
    """The checkpoint's artifact; None where there is none and none is needed."""
    if folder.exists():
        artifact = load_artifact(folder)
        require_same_model(artifact, CheckpointSource(checkpoint))
        return artifact
    if not needed:
        return None
    return export_model(checkpoint, folder, (BASE,), options, command=command, log=log)


def _find_card(checkpoint: Checkpoint | None, artifact: Artifact | None, options: ExportOptions) -> ModelCard:
    """The artifact's card, which may have measurements that the checkpoint has not, else one of the checkpoint."""
    if artifact is not None:
        card = artifact.card
    else:
        assert checkpoint is not None
        name = name_of_data(options.data) if options.data else None
        card = CheckpointSource(checkpoint, options.resize_mode, name).card
    return replace(card, name=options.name or card.name, version=options.version or card.version)
