"""The model folder: what export writes and serving reads. Its format is described in ``docs/artifact.md``.

model.onnx    the float32 graph: ``images`` uint8 (batch, H, W, 3) to ``logits`` float32 (batch, classes)
model.*       other variants of it: quantized to int8, in half precision, compiled for a GPU
reference.npz what it gave for labelled images that it has not seen, optional; see dhvt/confidence/reference.py
model.json    the card: everything else that is known about the model, with a hash of each file and of itself
model.json.sig  a signature of the card, optional; see dhvt/signature.py
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from dhvt.card import (
    CARD_NAME,
    ENGINE_NAME,
    EXPLAIN,
    EXPLAIN_NAME,
    GRAPH_NAME,
    INPUT_NAME,
    INT8_NAMES,
    ONNX,
    OPENVINO,
    OUTPUT_NAME,
    REFERENCE_NAME,
    SIGNATURE_NAME,
    TENSORRT,
    Golden,
    ModelCard,
    Variant,
)
from dhvt.configuration import from_dict
from dhvt.data.preprocess import Preprocess
from dhvt.errors import ArtifactError, ConfigError
from dhvt.evidence import find_evidence
from dhvt.files import exchange, read_object, replacing, sync, sync_folder
from dhvt.naming import check_version

__all__ = [
    "CARD_NAME",
    "ENGINE_NAME",
    "EXPLAIN",
    "EXPLAIN_NAME",
    "GRAPH_NAME",
    "INPUT_NAME",
    "INT8_NAMES",
    "ONNX",
    "OPENVINO",
    "OUTPUT_NAME",
    "REFERENCE_NAME",
    "SIGNATURE_NAME",
    "TENSORRT",
    "Artifact",
    "Golden",
    "ModelCard",
    "Variant",
    "load_artifact",
    "names_in_model",
    "write_card",
    "writing_artifact",
]

FORMAT = "dhvt-artifact-3"
_UNFINISHED = "unfinished-"


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

    def check_files(self) -> None:
        """Compares every file with its recorded hash.

        Loading does so. Who opens a file by its name later does so again afterwards: another model may have been put in its
        place.

        Raises:
            ArtifactError: a file is missing or cannot be read, or is another.
        """
        for name, recorded in self.card.files.items():
            path = self.path / name
            try:
                found = _hash_file(path)
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
                raise ArtifactError(f"{path} is missing; export the model again") from error
            except OSError as error:
                raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
            if found != recorded:
                raise ArtifactError(f"{path} is not the exported file (SHA-256 differs); export the model again")

    def reload_card(self) -> ModelCard:
        """The card as it is in the folder now, with what was recorded in it meanwhile; its files are compared again.

        Raises:
            ArtifactError: the folder has another model by now, a file of it is another, or its card cannot be read.
        """
        card = _read_card(self.path, None)
        if card.digest != self.digest:
            raise ArtifactError(
                f"{self.path} has another model than when this command began, so nothing is changed; run it again"
            )
        replace(self, card=card).check_files()
        return card


def _digest(card: dict[str, Any]) -> str:
    content = {key: value for key, value in card.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_json(card: ModelCard) -> str:
    values: dict[str, Any] = {"format": FORMAT}
    values |= {entry.name: getattr(card, entry.name) for entry in fields(card)}
    values["preprocess"] = card.preprocess.to_dict()
    values["golden"] = asdict(card.golden)
    values["variants"] = [asdict(variant) for variant in card.variants]
    values["evidence"] = find_evidence(card)
    values = json.loads(json.dumps(values))
    values["sha256"] = _digest(values)
    return json.dumps(values, indent=1) + "\n"


def load_artifact(path: str | Path, signed_by: Path | None = None) -> Artifact:
    """Opens a model folder and checks every file against its recorded hash.

    Args:
        signed_by: the public key that must have signed it; None where it need not be signed.

    Raises:
        ArtifactError: it is no model folder, a file is missing, one was changed since export, or it is not so signed.
        ConfigError: there is no such key.
    """
    root = Path(path)
    artifact = Artifact(path=root, card=_read_card(root, signed_by))
    artifact.check_files()
    return artifact


def _read_card(root: Path, signed_by: Path | None) -> ModelCard:
    path = root / CARD_NAME
    try:
        content = path.read_bytes()
        values = json.loads(content)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        found = "does not exist" if not os.path.exists(root) else f"has no {CARD_NAME}"
        raise ArtifactError(f"{root} is no model folder: it {found}; make one with dhvt export ckpt.pt") from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}; export the model again") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ArtifactError(f"{path} is not of format {FORMAT!r}; export the model again with this version")
    if values.get("sha256") != _digest(values):
        raise ArtifactError(f"{path} was changed since it was written; export the model again")
    if signed_by is not None:
        from dhvt.signature import check_signature

        check_signature(root, content, signed_by)
    try:
        card = _from_json(values)
    except (ConfigError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path} is invalid: {error}; export the model again") from error
    if not isinstance(card.files, dict):
        raise ArtifactError(f"{path} records no SHA-256 by file name; export the model again")
    if set(card.files) != _names(card) or GRAPH_NAME not in card.files:
        recorded, expected = (", ".join(sorted(names)) or "no file" for names in (card.files, _names(card) | {GRAPH_NAME}))
        raise ArtifactError(f"{path} records hashes of {recorded}, expected of {expected}")
    return card


def _from_json(values: dict[str, Any]) -> ModelCard:
    content = {key: value for key, value in values.items() if key not in ("format", "evidence", "sha256")}
    content["preprocess"] = from_dict(Preprocess, content["preprocess"])
    content["golden"] = from_dict(Golden, content["golden"])
    content["variants"] = tuple(from_dict(Variant, variant) for variant in content["variants"])
    check_version(content["version"])
    return from_dict(ModelCard, content)


def _names(card: ModelCard) -> set[str]:
    """The files of every variant, and that of the reference where there is one."""
    return {name for variant in card.variants for name in variant.files} | ({REFERENCE_NAME} if card.reference else set())


def names_in_model(folder: Path) -> set[str] | None:
    """What an export, of this version or an older one, wrote into a folder; None where it is no model folder."""
    values = read_object(folder / CARD_NAME)
    if values is None or not str(values.get("format")).startswith(FORMAT.rstrip("0123456789")):
        return None
    files = values.get("files")
    return {CARD_NAME, SIGNATURE_NAME, *(files if isinstance(files, dict) else ())}


@contextmanager
def writing_artifact(
    path: str | Path,
    names_in: Callable[[Path], set[str] | None] = names_in_model,
    kind: str = "model folder",
    beside: Path | None = None,
) -> Iterator[Path]:
    """A fresh folder to write into, which takes the place of ``path`` when the block ends well.

    A reader sees the old folder or the new one and never a mixture; where the system cannot exchange two folders in one step,
    for an instant none. What somebody else put into the old folder is in the new one too. A link goes on pointing to the
    folder, which is replaced.

    Args:
        names_in: what an earlier one wrote into such a folder, which goes with it; None for a folder of another kind.
        kind: what messages call such a folder.
        beside: where the fresh folder is made, on the same file system; where ``path`` is by default.

    Raises:
        ArtifactError: ``path`` is something other than such a folder, or cannot be written.
    """
    target = Path(os.path.realpath(path))
    ours = names_in(target)
    if ours is None and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ArtifactError(f"{path} exists and is no {kind}; choose another --out")
    if Path.cwd().is_relative_to(target):
        raise ArtifactError(f"{target} is the current folder, which cannot be replaced; run this from outside it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{target.name}.{_UNFINISHED}"
        _remove_unfinished(beside or target.parent, prefix)
        temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=beside or target.parent))
    except OSError as error:
        raise ArtifactError(f"cannot write beside {target}: {error.strerror}") from error
    held = _lock(temporary)
    try:
        temporary.chmod(0o755)
        yield temporary
        if ours is not None:
            _copy_others(target, temporary, ours)
        sync_folder(temporary)
        if not exchange(temporary, target):
            _replace(target, temporary)
        sync(target.parent)
    except OSError as error:
        raise ArtifactError(f"cannot write {target}: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if held is not None:
            os.close(held)


def _remove_unfinished(parent: Path, prefix: str) -> None:
    """Deletes what killed processes were writing: what nobody has locked and nothing was put into for a minute."""
    for path in parent.glob(f"{glob.escape(prefix)}*"):
        with suppress(OSError):
            is_new = time.time() - path.stat().st_mtime < 60  # and is perhaps not locked yet
            if not is_new and (held := _lock(path)) is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(held)


def _lock(folder: Path) -> int | None:
    """A descriptor that holds the folder until it is closed; None where another process does, or where there are no locks."""
    if sys.platform == "win32":
        return None
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _copy_others(source: Path, target: Path, left_out: set[str]) -> None:
    for entry in source.iterdir():
        if entry.name in left_out or (target / entry.name).exists():
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, target / entry.name, symlinks=True)
        else:
            shutil.copy2(entry, target / entry.name, follow_symlinks=False)


def _replace(target: Path, new: Path) -> None:
    """In two steps, where :func:`~dhvt.files.exchange` cannot."""
    old = new.with_name(new.name + ".old")
    try:
        if target.exists():
            target.rename(old)
        new.rename(target)
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(old, ignore_errors=True)


def write_card(folder: Path, card: ModelCard) -> ModelCard:
    """Writes ``model.json`` with the hashes of the files; atomic. A signature of the one before is removed.

    Raises:
        ArtifactError: it cannot be written.
    """
    try:
        card = replace(card, files={name: _hash_file(folder / name) for name in sorted(_names(card))})
        with replacing(folder / CARD_NAME) as temporary:
            temporary.write_text(_to_json(card), encoding="utf-8")
            (folder / SIGNATURE_NAME).unlink(missing_ok=True)
    except OSError as error:
        raise ArtifactError(f"cannot write {folder / CARD_NAME}: {error}") from error
    return card
