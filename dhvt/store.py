"""Copying a model folder into BentoML's model store, where ``DHVT_MODEL=hands:latest bentoml serve`` finds it."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from dhvt.artifact import CARD_NAME, SIGNATURE_NAME, Artifact, load_artifact
from dhvt.errors import ArtifactError, StoreError


def store_artifact(artifact: Artifact, tag: str | None = None) -> str:
    """Copies a model folder into the store; where the store has it already, it stays as it is.

    Args:
        tag: ``name:version``, or ``name``, to which the model's version is added; its own name and version by default.

    Returns:
        The whole tag.

    Raises:
        StoreError: BentoML is missing, the tag is invalid, or it belongs to another model.
    """
    if find_spec("bentoml") is None:
        raise StoreError("BentoML's model store needs BentoML; pip install bentoml")
    import bentoml
    from bentoml.exceptions import BentoMLException, NotFound

    card = artifact.card
    name, _, version = (tag or card.name).partition(":")
    tag = f"{name}:{version or card.version}"
    metadata = {"digest": artifact.digest, "classes": len(card.classes), "top1": card.metrics.get("val_top1", 0.0)}
    try:
        stored = bentoml.models.get(tag)
    except NotFound:
        try:
            with bentoml.models.create(tag, labels={"variant": card.architecture}, metadata=metadata) as model:
                signature = (SIGNATURE_NAME,) if (artifact.path / SIGNATURE_NAME).is_file() else ()
                for name in (CARD_NAME, *signature, *card.files):  # and nothing else that lies, or is linked, in the folder
                    shutil.copyfile(artifact.path / name, Path(model.path) / name)
        except (BentoMLException, ValueError, OSError) as error:
            raise StoreError(f"the model cannot be stored as {tag}: {error}") from error
    except (BentoMLException, ValueError) as error:
        raise StoreError(f"the model cannot be stored as {tag}: {error}") from error
    else:
        _require_same(artifact, Path(stored.path), tag)
    return tag


def _require_same(artifact: Artifact, stored: Path, tag: str) -> None:
    try:
        digest = load_artifact(stored).digest
    except ArtifactError as error:
        raise StoreError(
            f"the store's {tag} is damaged or no DHVT model: {error}; delete it: bentoml models delete {tag}"
        ) from error
    if digest != artifact.digest:
        raise StoreError(
            f"the model cannot be stored as {tag}: the store has another model under this tag (digest {digest[:8]}, this one "
            f"{artifact.digest[:8]}); export this one with another --version, or bentoml models delete {tag}"
        )
