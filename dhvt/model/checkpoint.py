"""Checkpoints (``ckpt.pt``), which ``torch.load(weights_only=True)`` reads, and the paper authors' files."""

from __future__ import annotations

import re
import zipfile
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dhvt.configuration import from_dict
from dhvt.data.preprocess import Preprocess
from dhvt.errors import CheckpointError, ConfigError
from dhvt.files import replacing
from dhvt.model.factory import build, complete

FORMAT = "dhvt-checkpoint-1"
State = dict[str, Tensor]
_SIGNATURES = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG", "gzip": b"\x1f\x8b", "PDF": b"%PDF"}


@dataclass(kw_only=True)
class Checkpoint:
    """A model in or after training, with everything that export and resuming need.

    Args:
        name: the architecture's name.
        config: the architecture, as :func:`dhvt.model.factory.configure` gave it.
        weights: the model's state dict.
        ema: state dict of the weights' moving average, which is exported in place of ``weights``; or None.
        classes: class names in label order.
        model_name: the name that its user gave the model; empty in older files.
        preprocess: :class:`dhvt.data.preprocess.Preprocess` as a dict.
        temperature: see :mod:`dhvt.evaluation.calibration`; fitted on the validation images.
        recipe: :class:`dhvt.training.config.Recipe` as a dict; empty for an imported model.
        metrics: what was measured last, such as ``val_top1``; empty before the first validation.
        best: ``epoch`` and ``val_loss`` of the epoch with the lowest validation loss so far, which is beside this file as
            ``best.pt``; empty before the first validation and in older files.
        epoch_metrics: training loss and accuracy of the last epoch, while it is not validated.
        epoch_sums: the same summed up over the steps of an epoch that has not ended; else empty.
        provenance: the command and versions that made it.
        data: the record of the training and validation images, see :mod:`dhvt.data.record`; empty in imported ones.
        frozen: whether the classifier alone is trained; None in older files.
        step: optimizer steps done.
        optimizers: their state dicts, for resuming; empty in a slimmed file.
        scaler: the state of fp16's loss scaling, or None.
    """

    name: str
    config: dict[str, Any]
    weights: State
    classes: list[str]
    preprocess: dict[str, Any]
    model_name: str = ""
    ema: State | None = None
    temperature: float = 1.0
    recipe: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    epoch_metrics: dict[str, Any] = field(default_factory=dict)
    epoch_sums: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    frozen: bool | None = None
    step: int = 0
    optimizers: list[dict[str, Any]] = field(default_factory=list)
    scaler: dict[str, Any] | None = None

    def build_model(self) -> nn.Module:
        """The model with its best weights (the moving average's if there is one), in evaluation mode.

        Raises:
            CheckpointError: weights and configuration do not fit.
        """
        try:
            model = build(self.name, self.config)
            model.load_state_dict(self.weights if self.ema is None else self.ema)
        except (ConfigError, RuntimeError) as error:
            raise CheckpointError(f"the checkpoint's weights do not fit its configuration: {error}") from error
        return model.eval()

    def build_preprocess(self) -> Preprocess:
        """How its images are prepared."""
        return from_dict(Preprocess, self.preprocess)


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Writes a checkpoint to a temporary name, syncs and renames it: after a crash or on a full disk the old file remains.

    Raises:
        CheckpointError: it cannot be written.
    """
    values = {entry.name: getattr(checkpoint, entry.name) for entry in fields(checkpoint)}
    try:
        with replacing(path) as temporary:
            torch.save({"format": FORMAT} | values, temporary)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"cannot write {path}: {error}; an older checkpoint there is unchanged") from error


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Reads a checkpoint of this package onto the CPU.

    Raises:
        CheckpointError: it is missing, damaged, or no checkpoint of this package.
    """
    values = read_file(path)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        found = f"format {values.get('format')!r}" if isinstance(values, dict) else type(values).__name__
        raise CheckpointError(f"{path} is no checkpoint of dhvt train ({found}, expected {FORMAT!r})")
    del values["format"]
    try:
        checkpoint = from_dict(Checkpoint, values)
        checkpoint.config = complete(checkpoint.config)
        return checkpoint
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error


def require_equal(name: str, old: Any, new: Any, hint: str = "repeat the first command with --resume") -> None:
    """Checks that a setting of the run is the one that the checkpoint was made with.

    Args:
        name: the setting's name.
        old, new: the checkpoint's value and the run's.
        hint: how to fix a difference.

    Raises:
        CheckpointError: they differ; the message lists the differences.
    """
    if old == new:
        return
    difference = f"{old!r}, now {new!r}"
    if isinstance(old, dict) and isinstance(new, dict):
        changed = [f"{key} {old.get(key)!r}, now {new[key]!r}" for key in new if old.get(key) != new[key]]
        difference = "; ".join(changed)
    raise CheckpointError(
        f"cannot resume: the checkpoint's {name} is {difference}; {hint}, or train into another --out, "
        "for which --init takes the weights of this one"
    )


def read_file(path: str | Path) -> Any:
    """The content of a file of ``torch.save``, on the CPU: plain containers, tensors, and the arguments of an authors' script.

    Raises:
        CheckpointError: it is missing, damaged, no such file, or holds other Python objects.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"no checkpoint at {path}")
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give the checkpoint file in it, such as ckpt.pt")
    try:
        with torch.serialization.safe_globals([Namespace]):  # the authors' files have one under "args"
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # bytes that are no pickle make the unpickler raise almost anything
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {_explain(path, error)}") from None


def read_safetensors(path: Path) -> State:
    """The tensors of a ``.safetensors`` file, by name.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        return load_file(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error


def _explain(path: Path, error: Exception) -> str:
    """Why ``torch.load`` refused a file, in one line and without its advice to load without checks."""
    expected = "expected a file of dhvt train (ckpt.pt) or of torch.save"
    if path.stat().st_size == 0:
        return f"it is empty; {expected}"
    if _is_other_archive(path):
        return f"it is a zip archive of something else; {expected}"
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        return (
            f"it holds a Python object of type {found[1]}; only tensors and plain containers are read, as others can run code"
        )
    start = path.open("rb").read(4)
    for name, signature in _SIGNATURES.items():
        if start.startswith(signature):
            return f"it is a {name} file; {expected}"
    return f"it is damaged or incomplete, or of another kind; {expected}"


def _is_other_archive(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return not any(name.endswith("/data.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def from_authors(state: Any, *, ema: bool = False) -> State:
    """The authors' state dict as ours. The keys agree; wrappers around them are removed.

    Args:
        state: what :func:`read_file` gave: a state dict, or one under ``model`` and perhaps ``model_ema``.
        ema: take ``model_ema``.

    Raises:
        CheckpointError: there is no state dict in it.
    """
    key = "model_ema" if ema else "model"
    wrong = CheckpointError("expected the authors' state dict: tensors by name, or such a dict under 'model'")
    if not isinstance(state, Mapping):
        raise wrong
    inner = state.get(key, state)
    if ema and key not in state:
        raise CheckpointError(f"the authors' file has no {key}; it has {', '.join(list(state)[:5])}")
    if not isinstance(inner, Mapping) or not all(isinstance(value, Tensor) for value in inner.values()):
        raise wrong
    return {name.removeprefix("module."): value for name, value in inner.items()}


def to_authors(state: Mapping[str, Tensor]) -> dict[str, State]:
    """Our state dict as the authors' file holds it: ``{"model": state}``; inverse of :func:`from_authors`."""
    return {"model": dict(state)}
