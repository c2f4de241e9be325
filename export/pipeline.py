"""``export_model``: a checkpoint or a model folder to an artifact with the targets that are asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from dhvt.artifact import (
    CARD_NAME,
    OPENVINO,
    SIGNATURE_NAME,
    TENSORRT,
    Artifact,
    ModelCard,
    load_artifact,
    write_card,
    writing_artifact,
)
from dhvt.errors import ExportError
from dhvt.evaluation.agreement import FP32
from dhvt.files import read_object
from dhvt.model.checkpoint import Checkpoint
from dhvt.naming import is_made_version, make_version, name_of_data
from export.golden import draw_inputs
from export.images import ExportImages, open_images
from export.parity import onnxruntime_predict
from export.reference import add_reference, leave_out_lost
from export.settings import ExportOptions
from export.source import ArtifactSource, CheckpointSource, Source
from export.targets.registry import TARGETS, Job, complete_settings, load_target, require_packages

BASE = TARGETS[0]
"""The target that makes an artifact; the others add to one."""

COMPANION = "explain"
"""The target that every new artifact gets, because its file is small; left out where a model has no attention to show."""


def no_log(message: str, err: bool = False) -> None:
    """Prints nothing."""


def export_model(
    source: Checkpoint | Artifact,
    out: Path,
    targets: Sequence[str] = (BASE,),
    options: ExportOptions | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    command: str = "",
    log: Callable[..., None] = no_log,
) -> Artifact:
    """Exports a model: all of the targets in one step, or on any error nothing.

    With the target ``onnx`` the artifact at ``out`` is replaced; other targets are added to it, and it is made first
    where it does not exist. One that is made gets the target ``explain`` too.

    Args:
        source: a trained model, or an artifact that is to get more variants.
        out: the folder to write; of an artifact usually its own.
        targets: of :data:`export.targets.registry.TARGETS`.
        settings: by target, an instance of its settings; defaults where absent.
        command: recorded in the artifact.
        log: prints one line; see :class:`export.targets.registry.Job`.

    Raises:
        ExportError: a package is missing, the model cannot be exported, or ``out`` is of another model.
        ParityError: a runtime disagrees with PyTorch.
        ArtifactError: ``out`` cannot be written.
        DataError: the images of ``options.data`` cannot be read.
    """
    options = options or ExportOptions()
    existing = _find_existing(source, out, targets)
    chosen = _choose_targets(targets, existing)
    require_packages([*chosen, *(name for name in targets if name not in TARGETS)])
    values = complete_settings(chosen, settings or {})
    if options.resize_mode is not None and BASE not in chosen:
        raise ExportError(f"{out} has its resize mode already; --resize-mode needs --target {BASE}, from a checkpoint")
    fallback = name_of_data(options.data) if options.data else None
    model = ArtifactSource(source) if isinstance(source, Artifact) else CheckpointSource(source, options.resize_mode, fallback)
    if isinstance(source, Checkpoint) and model.card.preprocess != source.build_preprocess():
        log("the temperature is of the training's resize mode; dhvt evaluate shows the calibration in this one")
    if existing is not None:
        require_same_model(existing, model)
    images = open_card_images(model.card, options, log)
    for name in chosen:
        if images is None and load_target(name).needs_images:
            raise ExportError(load_target(name).needs_images)
    replaced = {} if existing is not None else read_object(out / CARD_NAME) or {}
    was_signed = (out / SIGNATURE_NAME).exists()
    with writing_artifact(out) as folder:
        card = _write_targets(Job(source=model, images=images, folder=folder, log=log), existing, chosen, values)
        before = None if existing is None else existing.card
        card = write_card(folder, _identify(card, before, options))
        card = add_reference(Artifact(path=folder, card=card), options, log)
        if existing is not None and (existing.reload_card(), (out / SIGNATURE_NAME).exists()) != (existing.card, was_signed):
            raise ExportError(f"{existing.path} was changed while this ran, so nothing is written; run it again")
        write_card(folder, _with_provenance(_identify(card, before, options), chosen, options, values, command))
    artifact = load_artifact(out)
    _say_what_is_lost(replaced, was_signed, artifact.card, log)
    return artifact


def _write_targets(job: Job, existing: Artifact | None, chosen: Sequence[str], settings: Mapping[str, Any]) -> ModelCard:
    """Writes the files of the targets, beside those of the artifact that is added to; returns the card of all."""
    card = job.source.card
    if existing is not None:
        card = existing.card
        shutil.copytree(existing.path, job.folder, dirs_exist_ok=True)
    for number, name in enumerate(chosen, start=1):
        job.log(f"exporting {name}, {number} of {len(chosen)}", err=True)
        card = write_card(job.folder, load_target(name).add(job, card, settings[name]))
    return card if existing is None else leave_out_lost(Artifact(path=job.folder, card=card), existing.card, job.log)


def _say_what_is_lost(before: dict[str, Any], was_signed: bool, after: ModelCard, log: Callable[..., None]) -> None:
    """What a model had that was replaced, and which command makes it again.

    Args:
        before: its card; empty where nothing was replaced.
    """
    reference = before.get("reference")
    if reference and (not after.reference or reference.get("digest") != after.reference.get("digest")):
        log("the reference images of the model that was here are gone: run dhvt calibrate again", err=True)
    for split, entry in before.get("metrics", {}).items():
        if isinstance(entry, dict) and split not in after.metrics:
            log(f"metrics.{split} of the model that was here is gone: run dhvt evaluate --record again", err=True)
    for variant in before.get("variants", []):
        made = {OPENVINO: "int8", TENSORRT: "tensorrt"}.get(variant.get("format"))
        if made is not None and after.find_variant(format=variant["format"]) is None:
            log(f"what --target {made} made of the model that was here is gone: export that again", err=True)
    if was_signed:
        log("the signature of the model that was here is gone: run dhvt sign again", err=True)


def _choose_targets(targets: Sequence[str], existing: Artifact | None) -> list[str]:
    asked = {*targets} if existing is not None else {*targets, BASE, COMPANION}
    return [name for name in TARGETS if name in asked]


def _find_existing(source: Checkpoint | Artifact, out: Path, targets: Sequence[str]) -> Artifact | None:
    """The artifact that is added to; None where a new one is made."""
    if isinstance(source, Artifact):
        if BASE in targets:
            raise ExportError(f"{source.path} is a model folder, which has its float32 graph; give its checkpoint")
        return source
    return load_artifact(out) if BASE not in targets and out.exists() else None


def open_card_images(card: ModelCard, options: ExportOptions, log: Callable[..., None]) -> ExportImages | None:
    """See :func:`export.images.open_images`; what is known of the model's images is its card's."""

    def on_error(message: str) -> None:
        log(f"left out: {message}", err=True)

    return open_images(options, card.classes, card.data, card.recipe.get("seed", 0), on_error)


def require_same_model(artifact: Artifact, source: Source) -> None:
    """Checks that the artifact's graph gives the source's logits.

    Raises:
        ExportError: it does not.
    """
    images = draw_inputs(2, artifact.card.preprocess.size)
    expected = source.reference(images)
    got = onnxruntime_predict(artifact.graph_path)(images)
    if got.shape != expected.shape or not np.allclose(got, expected, atol=FP32.atol):
        raise ExportError(f"{artifact.path} was exported from another checkpoint; export this one first, or give another --out")


def _identify(card: ModelCard, before: ModelCard | None, options: ExportOptions) -> ModelCard:
    """The card with its name and version.

    A version that was made of a digest is made again where the digest is another; one that was given stays.

    Args:
        card: of the files that have been written.
        before: of the artifact that was added to.
    """
    version = options.version or ("" if before is None else before.version)
    if before is not None and not options.version and card.digest != before.digest:
        version = "" if is_made_version(version, before.digest) else version
    return replace(card, name=options.name or card.name, version=version or make_version(card.digest))


def _with_provenance(
    card: ModelCard, targets: Sequence[str], options: ExportOptions, settings: Mapping[str, Any], command: str
) -> ModelCard:
    """The card with this export among ``provenance.exports``; one that starts with ``onnx`` made the artifact anew."""
    before = [] if BASE in targets else card.provenance.get("exports", [])
    entry = {
        "command": command,
        "targets": list(targets),
        "resize_mode": card.preprocess.resize_mode,
        "options": asdict(options),
        "settings": {name: asdict(settings[name]) for name in targets},
    }
    plain = json.loads(json.dumps(entry, default=str))  # paths as text
    return replace(card, provenance=card.provenance | {"exports": [*before, plain]})
