"""The reference: what an artifact keeps of labelled images that the model has not seen, for promises about new images."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhvt.artifact import REFERENCE_NAME, Artifact, ModelCard, load_artifact, write_card, writing_artifact
from dhvt.confidence.known import measure_novelty
from dhvt.confidence.sets import nonconformity
from dhvt.data.sources import ImageSource, Subset
from dhvt.errors import ArtifactError
from dhvt.naming import is_made_version, make_version

MOST_IMAGES = 10_000
"""Images that a reference keeps; more would make no promise noticeably sharper."""

BASE_PRECISION = "fp32"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the model gave for the N reference images in one precision.

    Args:
        predicted: ``(N,)`` int32, the most likely class.
        top_score: ``(N,)``, its calibrated probability.
        true_score: ``(N,)``, nonconformity of the right class, see :func:`dhvt.confidence.sets.nonconformity`.
        novelty: ``(N,)``, how strange the image is, higher for stranger ones; None where it was not measured.
        index: ``(M, classes)`` float32, logits among which neighbours are looked for, see
            :class:`dhvt.confidence.known.NoveltyIndex`; None with ``novelty``.
    """

    predicted: NDArray[np.int32]
    top_score: NDArray[np.float64]
    true_score: NDArray[np.float64]
    novelty: NDArray[np.float64] | None = None
    index: NDArray[np.float32] | None = None

    @classmethod
    def of(
        cls,
        probabilities: NDArray[np.float64],
        labels: NDArray[np.integer],
        logits: NDArray[np.float32] | None = None,
    ) -> Measured:
        """Of calibrated probabilities ``(N, classes)``, the right classes ``(N,)``, and the logits, for the novelty."""
        novelty, index = (None, None) if logits is None else measure_novelty(logits)
        return cls(
            predicted=probabilities.argmax(axis=1).astype(np.int32),
            top_score=probabilities.max(axis=1),
            true_score=nonconformity(probabilities)[np.arange(len(labels)), labels],
            novelty=novelty,
            index=index,
        )


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Labelled images that the model has not seen, as it saw them.

    Args:
        labels: ``(N,)`` int32, the right classes.
        hashes: ``(N,)`` uint64, of the images' files, see :func:`dhvt.data.fingerprint.hash_bytes`.
        measured: by precision; always in fp32.
    """

    labels: NDArray[np.int32]
    hashes: NDArray[np.uint64]
    measured: Mapping[str, Measured]

    def __len__(self) -> int:
        return len(self.labels)

    def find(self, precision: str) -> tuple[Measured, str]:
        """What was measured in this precision, or else in fp32, and in which of them."""
        chosen = precision if precision in self.measured else BASE_PRECISION
        return self.measured[chosen], chosen

    def save(self, path: Path) -> None:
        """Writes ``reference.npz``."""
        arrays: dict[str, NDArray[Any]] = {"labels": self.labels, "hashes": self.hashes}
        for precision, measured in self.measured.items():
            for entry in fields(Measured):
                if (values := getattr(measured, entry.name)) is not None:
                    arrays[f"{precision}/{entry.name}"] = values
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)


def load_reference(artifact: Artifact) -> Reference | None:
    """The artifact's reference; None where it has none.

    Raises:
        ArtifactError: its file holds something else.
    """
    if not artifact.card.reference:
        return None
    path = artifact.path / REFERENCE_NAME
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays: dict[str, NDArray[Any]] = dict(file)
        found: dict[str, dict[str, NDArray[Any]]] = {}
        for name, values in arrays.items():
            precision, slash, field = name.partition("/")
            if slash:
                found.setdefault(precision, {})[field] = values
        measured = {precision: Measured(**entry) for precision, entry in found.items()}
        reference = Reference(labels=arrays["labels"], hashes=arrays["hashes"], measured=measured)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is no reference of this version: {error}; run dhvt calibrate again") from error
    counts = {len(values) for name, values in arrays.items() if not name.endswith("/index")}
    has_novelty = {(entry.novelty is None, entry.index is None) for entry in measured.values()}
    is_whole = counts == {len(reference)} and has_novelty in ({(False, False)}, {(True, True)})
    if BASE_PRECISION not in measured or not is_whole or not len(reference):
        raise ArtifactError(f"{path} is incomplete; run dhvt calibrate again")
    return reference


def save_reference(folder: Path, card: ModelCard, reference: Reference, record: Mapping[str, Any]) -> ModelCard:
    """Writes a reference into a folder that nobody reads yet, and its card; returns that. See :func:`write_reference`."""
    kept = card if card.reference.get("digest") == record.get("digest") else card.without_promises()
    measured_in = {"images": len(reference), "precisions": list(reference.measured)}
    reference.save(folder / REFERENCE_NAME)
    return write_card(folder, replace(kept, reference={**record, **measured_in}))


def write_reference(artifact: Artifact, reference: Reference, record: Mapping[str, Any]) -> Artifact:
    """Replaces the artifact's folder in one step by one with this reference.

    The digest is another then, because prediction sets are; so is a version that was made of it. With other images, the card
    loses what was measured of the reference before.

    Args:
        record: the fingerprint of the images, ``source``, and what else is known of them.

    Raises:
        ArtifactError: it cannot be written, or the folder has another model by now.
    """
    before = artifact.reload_card()
    with writing_artifact(artifact.path) as folder:
        shutil.copytree(artifact.path, folder, dirs_exist_ok=True)
        card = save_reference(folder, before, reference, record)
        if is_made_version(before.version, before.digest) and card.digest != before.digest:
            write_card(folder, replace(card, version=make_version(card.digest)))
    return load_artifact(artifact.path)


def choose_images(source: ImageSource, seed: int = 0) -> ImageSource:
    """All images, or :data:`MOST_IMAGES` of them by chance."""
    if len(source) <= MOST_IMAGES:
        return source
    return Subset(source, np.sort(np.random.default_rng(seed).permutation(len(source))[:MOST_IMAGES]))
