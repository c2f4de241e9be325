"""The reference of an exported model: of the images that its training held out for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dhvt.artifact import Artifact, ModelCard, write_card
from dhvt.confidence.reference import BASE_PRECISION, choose_images, load_reference, save_reference
from dhvt.data.reopen import reopen_reference
from dhvt.errors import EngineError
from export.settings import ExportOptions


def add_reference(artifact: Artifact, options: ExportOptions, log: Callable[..., Any]) -> ModelCard:
    """Measures the reference images that the training held out, in every precision that runs here; returns the card then.

    It stays as it is where the training held out none, and where the artifact has other ones of ``dhvt calibrate``.

    Args:
        artifact: in a folder that nobody reads yet.
        log: called with a line about what was done, or why it was not.

    Raises:
        DataError: the images of ``options.data`` cannot be read.
        ArtifactError: the folder cannot be written.
    """
    from dhvt.engines import EngineOptions, EngineSettings, measure_reference

    card = artifact.card
    held_out = card.data.get("reference")
    if held_out is None or (card.reference and card.reference.get("digest") != held_out["digest"]):
        return card  # that of dhvt calibrate stays
    source = None
    if options.data is not None:
        source = reopen_reference(options.data, card.classes, card.data, card.recipe.get("seed", 0))
    if source is None and card.reference:
        return card
    if source is None:
        given = "there is no --data" if options.data is None else f"{options.data} has not got them"
        log(
            f"no reference images, though the training held out some: {given}; give its --data, or run dhvt calibrate", err=True
        )
        return card
    settings = EngineSettings.from_environ()
    engine = EngineOptions(threads=settings.engine_threads(), max_batch_size=settings.max_batch_size)
    chosen = choose_images(source)
    try:
        reference = measure_reference(
            artifact,
            chosen,
            engine,
            on_error=lambda message: log(f"left out: {message}", err=True),
            on_engine=lambda name: log(f"measuring {len(chosen)} reference images in {name}", err=True),
        )
    except EngineError as error:
        log(f"no reference images: {error}", err=True)
        return card
    log(f"{len(reference)} reference images, in {', '.join(reference.measured)}")
    return save_reference(artifact.path, card, reference, held_out)


def leave_out_lost(artifact: Artifact, before: ModelCard, log: Callable[..., Any]) -> ModelCard:
    """Drops what was measured of graphs and engines that are other ones by now, or gone; returns the card then.

    Args:
        artifact: in a folder that nobody reads yet, with the results of before.
        before: the card before its files were written.
        log: called with a line about each result that is dropped.

    Raises:
        ArtifactError: the folder cannot be written, or its reference cannot be read.
    """
    card = artifact.card
    lost = [variant for variant in before.variants if any(before.files[name] != card.files.get(name) for name in variant.files)]
    metrics = dict(card.metrics)
    for split, entry in card.metrics.items():
        if isinstance(entry, dict) and before.find_run(entry.get("engine", ""), entry.get("precision", "")) in lost:
            log(f"metrics.{split} was of the {entry['precision']} graph that was here: run dhvt evaluate again", err=True)
            del metrics[split]
    card, reference = replace(card, metrics=metrics), load_reference(artifact)
    gone = {variant.precision for variant in lost} - {BASE_PRECISION}
    if reference is not None and not gone.isdisjoint(reference.measured):
        measured = {precision: entry for precision, entry in reference.measured.items() if precision not in gone}
        log("the reference was of other graphs too, and is of the rest now: run dhvt calibrate again", err=True)
        return save_reference(artifact.path, card, replace(reference, measured=measured), card.reference)
    return write_card(artifact.path, card)
