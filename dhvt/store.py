"""Copying a model folder into BentoML's model store, where ``DHVT_MODEL=hands:latest bentoml serve`` finds it."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from dhvt.artifact import CARD_NAME, SIGNATURE_NAME, Artifact, load_artifact, writing_artifact
from dhvt.errors import ArtifactError, StoreError


def store_artifact(artifact: Artifact, tag: str | None = None) -> str:
    """Copies a model folder into the store. Where the store has the model already, it gets what was added to it since: what was
    measured, the graph that explains, the signature.

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
                _copy(artifact, Path(model.path))
        except (BentoMLException, ValueError, OSError) as error:
            raise StoreError(f"the model cannot be stored as {tag}: {error}") from error
    except (BentoMLException, ValueError) as error:
        raise StoreError(f"the model cannot be stored as {tag}: {error}") from error
    else:
        _require_same(artifact, Path(stored.path), tag)
        _update(artifact, Path(stored.path))
    return tag


def _copy(artifact: Artifact, folder: Path) -> None:
    """The model's files, and nothing else that lies, or is linked, in its folder."""
    signature = (SIGNATURE_NAME,) if (artifact.path / SIGNATURE_NAME).is_file() else ()
    for name in (CARD_NAME, *signature, *artifact.card.files):
        shutil.copyfile(artifact.path / name, folder / name)


def _update(artifact: Artifact, stored: Path) -> None:
    if any(_read(artifact.path / name) != _read(stored / name) for name in (CARD_NAME, SIGNATURE_NAME)):
        try:
            with writing_artifact(stored) as folder:
                _copy(artifact, folder)
        except ArtifactError as error:
            raise StoreError(f"the model cannot be stored: {error}") from error


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


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
