"""The model folder: what export writes and serving reads. Its format is described in ``docs/artifact.md``.

model.onnx    the float32 graph: ``images`` uint8 (batch, H, W, 3) to ``logits`` float32 (batch, classes)
model.*       other variants of it: quantized to int8, in half precision, compiled for a GPU
model.json    the card: everything else that is known about the model, with a hash of each file and of itself
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhvt.configuration import from_dict, require
from dhvt.data.preprocess import Preprocess
from dhvt.errors import ArtifactError, ConfigError
from dhvt.naming import check_name, check_version

FORMAT = "dhvt-artifact-3"
GRAPH_NAME = "model.onnx"
INT8_NAMES = ("model.int8.xml", "model.int8.bin")
ENGINE_NAME = "model.engine"
CARD_NAME = "model.json"
INPUT_NAME = "images"
OUTPUT_NAME = "logits"

ONNX, OPENVINO, TENSORRT = "onnx", "openvino", "tensorrt"
"""The formats of variants: an ONNX graph, OpenVINO's IR, an engine of TensorRT or TensorRT for RTX."""

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, kw_only=True)
class Golden:
    """The self-test: small drawn images, encoded, and the logits that PyTorch gave for them.

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
class Variant:
    """One graph or engine of an artifact. Every variant takes the same images and gives the same classes.

    Args:
        format: ``onnx``, ``openvino`` or ``tensorrt``.
        precision: of its weights and arithmetic: ``fp32``, ``fp16``, ``bf16`` or ``int8``.
        files: plain file names inside the model folder; a runtime opens the first.
        hardware: what it was built for, empty where it runs anywhere. Of a TensorRT engine: ``flavour``, ``version``,
            ``platform``, ``cuda``, ``driver``, ``gpu``, ``compute_capabilities``, ``profile`` and ``onnx_sha256``.
        parity: how it was compared with PyTorch's float32 at export. ``images`` is ``real`` or ``drawn``, ``tolerance`` what
            was allowed, and ``comparisons`` one :class:`dhvt.evaluation.agreement.Comparison` for each runtime. Of a
            quantized graph also ``golden_logits`` that it gave for the golden images, ``calibration_images``, ``speedup``,
            and ``held_out``, whether it was compared on images that training did not see.

    Raises:
        ConfigError: there is no file, or one of them is not a plain file name.
    """

    format: str
    precision: str
    files: tuple[str, ...]
    hardware: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", tuple(self.files))
        require(bool(self.files), f"the {self.format} variant in {self.precision} has no file")
        for name in self.files:
            valid = isinstance(name, str) and _FILE_NAME.fullmatch(name) is not None and name != CARD_NAME
            require(valid, f"the variant's file {name!r} is not a plain file name inside the model folder")

    @property
    def golden_logits(self) -> NDArray[np.float32] | None:
        """What this variant gave for the golden images at export, where it is compared with that and not with PyTorch's."""
        logits = self.parity.get("golden_logits")
        return None if logits is None else np.array(logits, dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """The content of ``model.json``.

    Args:
        name: the model's name, which its user gave; see :mod:`dhvt.naming`.
        version: of the model; empty until its files are written.
        architecture: of the network, such as ``dhvt_tiny_cifar_patch4``.
        classes: class names in label order.
        preprocess: how an image becomes the input.
        golden: the self-test.
        variants: the graphs and engines, the float32 graph first.
        temperature: what logits are divided by before they become scores; fitted on held-out images.
        files: SHA-256 by file name, of every variant's files.
        data: fingerprints of the images, under ``training``, ``validation``, ``calibration`` and ``test``; what is not known
            is absent. Each has the fields of :class:`dhvt.data.fingerprint.Fingerprint`, and ``source``, where they came from.
        metrics: the checkpoint's, and what ``dhvt evaluate --record`` measured, under the split's name.
        recipe: how it was trained.
        provenance: the commands that trained and exported it, the device, and the versions at training.
        versions: of the tools that exported it.
    """

    name: str
    version: str = ""
    architecture: str
    classes: list[str]
    preprocess: Preprocess
    golden: Golden
    variants: tuple[Variant, ...]
    temperature: float = 1.0
    files: dict[str, str] = field(default_factory=dict)
    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.version:
            check_version(self.version)

    @property
    def digest(self) -> str:
        """A hash of everything that decides an answer: files, classes, preprocessing, temperature and golden logits."""
        decisive = [self.files, self.golden.logits, self.classes, self.preprocess.to_dict(), self.temperature]
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    def find_variant(self, *, format: str | None = None, precision: str | None = None) -> Variant | None:
        """The first variant of this format and precision; None where there is none."""
        for variant in self.variants:
            if format in (None, variant.format) and precision in (None, variant.precision):
                return variant
        return None

    def with_variant(self, added: Variant) -> ModelCard:
        """A card with one more variant, in the place of those that have its format and precision, or one of its files."""
        kept = [
            variant
            for variant in self.variants
            if (variant.format, variant.precision) != (added.format, added.precision) and not {*variant.files} & {*added.files}
        ]
        return replace(self, variants=(*kept, added))


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A model folder whose files are those recorded."""

    path: Path
    card: ModelCard

    @property
    def graph_path(self) -> Path:
        """The float32 graph, ``model.onnx``."""
        return self.path / GRAPH_NAME

    @property
    def digest(self) -> str:
        """See :attr:`ModelCard.digest`."""
        return self.card.digest

    def find_variant(self, *, format: str | None = None, precision: str | None = None) -> Variant | None:
        """The first variant of this format and precision; None where there is none."""
        return self.card.find_variant(format=format, precision=precision)

    def path_of(self, variant: Variant) -> Path:
        """The file that a runtime opens."""
        return self.path / variant.files[0]


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
    values["golden"] = asdict(card.golden)
    values["variants"] = [asdict(variant) for variant in card.variants]
    values = json.loads(json.dumps(values))
    values["sha256"] = _digest(values)
    return json.dumps(values, indent=1) + "\n"


def load_artifact(path: str | Path) -> Artifact:
    """Opens a model folder and checks every file against its recorded hash.

    Raises:
        ArtifactError: it is no model folder, a file is missing, or one was changed since export.
    """
    root = Path(path)
    card = _read_card(root)
    for name, recorded in card.files.items():
        if not (root / name).is_file():
            raise ArtifactError(f"{root / name} is missing; export the model again")
        if _hash_file(root / name) != recorded:
            raise ArtifactError(f"{root / name} is not the exported file (SHA-256 differs); export the model again")
    return Artifact(path=root, card=card)


def _read_card(root: Path) -> ModelCard:
    path = root / CARD_NAME
    if not path.is_file():
        found = "does not exist" if not root.exists() else f"has no {CARD_NAME}"
        raise ArtifactError(f"{root} is no model folder: it {found}; make one with dhvt export ckpt.pt")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}; export the model again") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ArtifactError(f"{path} is not of format {FORMAT!r}; export the model again with this version")
    if values.get("sha256") != _digest(values):
        raise ArtifactError(f"{path} was changed since it was written; export the model again")
    try:
        card = _from_json(values)
    except (ConfigError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path} is invalid: {error}; export the model again") from error
    if not isinstance(card.files, dict):
        raise ArtifactError(f"{path} records no SHA-256 by file name; export the model again")
    if set(card.files) != _names(card) or GRAPH_NAME not in card.files:
        recorded = ", ".join(sorted(card.files)) or "no file"
        raise ArtifactError(f"{path} records hashes of {recorded}, expected {GRAPH_NAME} and its variants' files")
    return card


def _from_json(values: dict[str, Any]) -> ModelCard:
    content = {key: value for key, value in values.items() if key not in ("format", "sha256")}
    content["preprocess"] = from_dict(Preprocess, content["preprocess"])
    content["golden"] = from_dict(Golden, content["golden"])
    content["variants"] = tuple(from_dict(Variant, variant) for variant in content["variants"])
    check_version(content["version"])
    return from_dict(ModelCard, content)


def _names(card: ModelCard) -> set[str]:
    """The files of every variant."""
    return {name for variant in card.variants for name in variant.files}


@contextmanager
def writing_artifact(path: str | Path, marker: str = CARD_NAME, kind: str = "model folder") -> Iterator[Path]:
    """A fresh folder to write into, which takes the place of ``path`` when the block ends well.

    A reader sees the old folder or the new one, or for an instant none, but never a mixture.

    Args:
        marker: the file that a folder must have to be replaced.
        kind: what messages call such a folder.

    Raises:
        ArtifactError: ``path`` is something other than such a folder, or cannot be written.
    """
    target = Path(path)
    if target.exists() and not (target / marker).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise ArtifactError(f"{target} exists and is no {kind}; choose another --out")
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
    """Writes ``model.json`` with the hashes of the variants' files; atomic.

    Raises:
        ArtifactError: it cannot be written.
    """
    temporary = folder / f".{CARD_NAME}.{os.getpid()}"
    try:
        card = replace(card, files={name: _hash_file(folder / name) for name in sorted(_names(card))})
        temporary.write_text(_to_json(card), encoding="utf-8")
        temporary.replace(folder / CARD_NAME)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise ArtifactError(f"cannot write {folder / CARD_NAME}: {error}") from error
    return card
