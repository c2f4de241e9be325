"""Copying a model folder into BentoML's model store, where ``DHVT_MODEL=dhvt:latest bentoml serve`` finds it."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

from dhvt.artifact import Artifact
from dhvt.errors import ExportError


def store_artifact(artifact: Artifact, tag: str) -> str:
    """Copies a model folder into the store.

    Args:
        tag: ``name`` or ``name:version``; without a version the store generates one.

    Returns:
        The whole tag.

    Raises:
        ExportError: BentoML is missing, or the tag is invalid or taken.
    """
    if find_spec("bentoml") is None:
        raise ExportError("--tag needs BentoML; pip install bentoml")
    import bentoml
    from bentoml.exceptions import BentoMLException

    card = artifact.card
    metadata = {"digest": artifact.digest, "classes": len(card.classes), "top1": card.metrics.get("val_top1", 0.0)}
    try:
        with bentoml.models.create(tag, labels={"variant": card.name}, metadata=metadata) as model:
            shutil.copytree(artifact.path, model.path, dirs_exist_ok=True)
    except (BentoMLException, ValueError) as error:
        raise ExportError(f"the model cannot be stored as {tag}: {error}") from error
    return str(model.tag)
