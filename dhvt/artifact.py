"""The model folder: what export writes and serving reads.

model.onnx    the graph, one file: ``images`` uint8 (batch, H, W, 3) to ``logits`` float32 (batch, classes)
model.int8.*  optional: the same quantized to int8, as OpenVINO's IR
model.engine  optional: compiled by TensorRT
model.json    everything else that is known about it, with a hash of each file and of itself
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhvt.configuration import from_dict
from dhvt.data.preprocess import Preprocess
from dhvt.errors import ArtifactError, ConfigError

FORMAT = "dhvt-artifact-1"
GRAPH_NAME = "model.onnx"
INT8_NAMES = ("model.int8.xml", "model.int8.bin")
ENGINE_NAME = "model.engine"
CARD_NAME = "model.json"
INPUT_NAME = "images"
OUTPUT_NAME = "logits"


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Small drawn images, encoded, with the logits that PyTorch gave for them.

    Args:
        images: PNG files in base64.
        logits: ``(len(images), classes)``.
    """

    images: list[str]
    logits: list[list[float]]

    def encoded(self) -> list[bytes]:
        """The images as files' bytes."""
        return [base64.b64decode(image) for image in self.images]

    def expected(self) -> NDArray[np.float32]:
        """The logits, ``(len(images), classes)`` float32."""
        return np.array(self.logits, dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What ``model.json`` says.

    Args:
        name: the variant.
        classes: class names in label order.
        preprocess: how an image becomes the input.
        precision: of the graph's weights, ``fp32``.
        opset_version: of the ONNX graph.
        golden: the self-test.
        temperature: what logits are divided by before they become scores; fitted on held-out images.
        files: SHA-256 by file name.
        int8: where there is a quantized graph: ``logits`` that it gave for the golden images, and what was measured of
            it at export.
        engine: where there is a TensorRT engine: what it was built with and for.
        parity: how far each runtime's outputs were from PyTorch's at export.
        metrics: the checkpoint's, and under ``test`` what ``dhvt evaluate --record`` measured.
        recipe, provenance: how it was trained, with the exact command and versions.
        versions: of the tools that exported it.
    """

    name: str
    classes: list[str]
    preprocess: Preprocess
    precision: str
    opset_version: int
    golden: Golden
    temperature: float = 1.0
    files: dict[str, str] = field(default_factory=dict)
    int8: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A model folder whose files are those recorded."""

    path: Path
    card: ModelCard

    @property
    def graph_path(self) -> Path:
        return self.path / GRAPH_NAME

    @property
    def int8_path(self) -> Path | None:
        """The quantized graph, where there is one."""
        return self.path / INT8_NAMES[0] if set(INT8_NAMES) <= set(self.card.files) else None

    @property
    def digest(self) -> str:
        """A hash of everything that an engine computes from."""
        return hashlib.sha256(json.dumps([self.card.files, self.card.golden.logits], sort_keys=True).encode()).hexdigest()


def _digest(card: dict[str, Any]) -> str:
    content = {key: value for key, value in card.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _to_json(card: ModelCard) -> str:
    values: dict[str, Any] = {"format": FORMAT}
    values |= {entry.name: getattr(card, entry.name) for entry in fields(card)}
    values["preprocess"] = card.preprocess.to_dict()
    values["golden"] = {"images": card.golden.images, "logits": card.golden.logits}
    values = json.loads(json.dumps(values))
    values["sha256"] = _digest(values)
    return json.dumps(values, indent=1) + "\n"


def load_artifact(path: str | Path) -> Artifact:
    """Opens a model folder and checks every file against its recorded hash.

    Raises:
        ArtifactError: it is no model folder, a file is missing, or one was changed since export.
    """
    root = Path(path)
    card_path = root / CARD_NAME
    if not card_path.is_file():
        found = "does not exist" if not root.exists() else f"has no {CARD_NAME}"
        raise ArtifactError(f"{root} is no model folder: it {found}; make one with python export/to_onnx.py ckpt.pt")
    try:
        values = json.loads(card_path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{card_path} cannot be read: {error}; export the model again") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ArtifactError(f"{card_path} is not of format {FORMAT!r}; export the model again with this version")
    if values.get("sha256") != _digest(values):
        raise ArtifactError(f"{card_path} was changed since it was written; export the model again")
    del values["format"], values["sha256"]
    try:
        values["preprocess"] = from_dict(Preprocess, values["preprocess"])
        values["golden"] = from_dict(Golden, values["golden"])
        card = from_dict(ModelCard, values)
    except (ConfigError, KeyError) as error:
        raise ArtifactError(f"{card_path} is incomplete: {error}; export the model again") from error
    for name, recorded in card.files.items():
        if not (root / name).is_file():
            raise ArtifactError(f"{root / name} is missing; export the model again")
        if _hash_file(root / name) != recorded:
            raise ArtifactError(f"{root / name} is not the exported file (SHA-256 differs); export the model again")
    if GRAPH_NAME not in card.files:
        raise ArtifactError(f"{card_path} records no {GRAPH_NAME}; export the model again")
    return Artifact(path=root, card=card)


@contextmanager
def writing_artifact(path: str | Path) -> Iterator[Path]:
    """A fresh folder to write into, which takes the place of ``path`` when the block ends well.

    A reader sees the old folder or the new one, or for an instant none, but never a mixture.

    Raises:
        ArtifactError: ``path`` is something other than a model folder, or cannot be written.
    """
    target = Path(path)
    if target.exists() and not (target / CARD_NAME).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise ArtifactError(f"{target} exists and is no model folder; choose another --out")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise ArtifactError(f"cannot write beside {target}: {error.strerror}") from error
    old = temporary.with_name(temporary.name + ".old")
    try:
        temporary.chmod(0o755)
        yield temporary
        if target.exists():
            target.rename(old)
        temporary.rename(target)
    except OSError as error:
        raise ArtifactError(f"cannot write {target}: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(old, ignore_errors=True)


def write_card(folder: Path, card: ModelCard) -> ModelCard:
    """Writes ``model.json`` with the hashes of the graphs and the files already recorded; atomic.

    Raises:
        ArtifactError: it cannot be written.
    """
    names = {GRAPH_NAME, *card.files, *(INT8_NAMES if card.int8 else ()), *([ENGINE_NAME] if card.engine else ())}
    card = replace(card, files={name: _hash_file(folder / name) for name in sorted(names)})
    temporary = folder / f".{CARD_NAME}.{os.getpid()}"
    try:
        temporary.write_text(_to_json(card), encoding="utf-8")
        temporary.replace(folder / CARD_NAME)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise ArtifactError(f"cannot write {folder / CARD_NAME}: {error.strerror}") from error
    return card
