"""The reference of an exported model: of the images that its training held out for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dhvt.artifact import Artifact
from dhvt.confidence.reference import choose_images, write_reference
from dhvt.data.reopen import reopen_reference
from dhvt.errors import EngineError
from export.settings import ExportOptions


def add_reference(artifact: Artifact, options: ExportOptions, log: Callable[..., Any]) -> Artifact:
    """Measures the reference images that the training held out, in every precision that runs here.

    The artifact is returned as it is where the training held out none, and where it has other ones of ``dhvt calibrate``.

    Args:
        log: called with a line about what was done, or why it was not.

    Raises:
        DataError: the images of ``options.data`` cannot be read.
        ArtifactError: the folder cannot be written.
    """
    from dhvt.engines import EngineOptions, EngineSettings, measure_reference

    card = artifact.card
    held_out = card.data.get("reference")
    if held_out is None or (card.reference and card.reference.get("digest") != held_out["digest"]):
        return artifact  # that of dhvt calibrate stays
    source = None
    if options.data is not None:
        source = reopen_reference(options.data, card.classes, card.data, card.recipe.get("seed", 0))
    if source is None and card.reference:
        return artifact
    if source is None:
        given = "there is no --data" if options.data is None else f"{options.data} has not got them"
        log(
            f"no reference images, though the training held out some: {given}; give its --data, or run dhvt calibrate", err=True
        )
        return artifact
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
        return artifact
    log(f"{len(reference)} reference images, in {', '.join(reference.measured)}")
    return write_reference(artifact, reference, held_out)
