"""Graphs of equal models are exported once per test run; PyTorch's export takes seconds even for the smallest."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from dhvt.data.preprocess import Preprocess
from export.settings import OPSET_VERSION

PLAIN = (bool, int, float, str, tuple, type(None))


def fingerprint(model: torch.nn.Module) -> str:
    """A digest of all that the graph depends on: modules, their plain attributes, parameters and buffers."""
    digest = hashlib.sha256(repr(model).encode())
    for name, module in model.named_modules():
        attributes = {key: value for key, value in vars(module).items() if isinstance(value, PLAIN)}
        digest.update(f"{name} {type(module)} {sorted(attributes.items())}".encode())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(
            tensor.detach().contiguous().view(torch.uint8).numpy().tobytes() if tensor.dim() else str(tensor).encode()
        )
    return digest.hexdigest()


def export_once(export: Callable[..., None], folder: Path) -> Callable[..., None]:
    """``export_graph`` that copies the graph which an earlier call wrote for the same model and settings."""

    def export_graph(model: torch.nn.Module, preprocess: Preprocess, path: Path, opset_version: int = OPSET_VERSION) -> None:
        key = f"{fingerprint(model)} {preprocess} {opset_version}"
        kept = folder / f"{hashlib.sha256(key.encode()).hexdigest()}.onnx"
        if not kept.exists():
            export(model, preprocess, path, opset_version)
            shutil.copyfile(path, kept)
        else:
            shutil.copyfile(kept, path)

    return export_graph
