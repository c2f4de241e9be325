"""Whether the TensorRT engine of an artifact fits this machine. Facts in, verdict out; no GPU is touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dhvt.artifact import GRAPH_NAME, TENSORRT, ModelCard
from dhvt.errors import EngineError, EngineUnavailable
from dhvt.hardware.gpus import RTX_DEFAULT_CAPABILITY, Gpu

PACKAGES = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}
"""What to install for a flavour."""


@dataclass(frozen=True, kw_only=True)
class EngineEntry:
    """The artifact's TensorRT variant, as its ``model.json`` describes it.

    Args:
        flavour: ``tensorrt`` or ``tensorrt_rtx``.
        version: of the TensorRT that built it.
        precision: of the graph it was built from.
        platform: where it was built, ``Linux x86_64`` …
        compute_capabilities: of the GPUs that it is for; empty for all that ``tensorrt_rtx`` builds for by default.
        min_batch_size, max_batch_size: the profile.
        onnx_sha256: of the artifact's graph when it was built.
        sha256: of the file.
    """

    flavour: str
    version: str
    precision: str
    platform: str
    compute_capabilities: tuple[str, ...]
    min_batch_size: int
    max_batch_size: int
    onnx_sha256: str
    sha256: str

    @classmethod
    def from_card(cls, card: ModelCard) -> EngineEntry:
        """
        Raises:
            EngineUnavailable: the artifact has no engine.
            EngineError: its entry is not one that this version writes.
        """
        variant = card.find_variant(format=TENSORRT)
        if variant is None:
            raise EngineUnavailable("the model has no TensorRT engine; python export/to_trt.py ckpt.pt adds one")
        entry: Mapping[str, Any] = variant.hardware
        try:
            profile = entry["profile"]
            read = cls(
                flavour=entry["flavour"],
                version=entry["version"],
                precision=variant.precision,
                platform=entry["platform"],
                compute_capabilities=tuple(entry["compute_capabilities"]),
                min_batch_size=profile["min_batch_size"],
                max_batch_size=profile["max_batch_size"],
                onnx_sha256=entry["onnx_sha256"],
                sha256=card.files[variant.files[0]],
            )
        except (KeyError, TypeError) as error:
            raise EngineError(f"model.json does not say enough of its engine ({error}); run export/to_trt.py again") from error
        if read.flavour not in PACKAGES:
            raise EngineError(f"model.json names {read.flavour!r} as its engine's flavour; run export/to_trt.py again")
        if not 1 <= read.min_batch_size <= read.max_batch_size:
            sizes = f"{read.min_batch_size} to {read.max_batch_size}"
            raise EngineError(f"model.json gives its engine batches of {sizes}; run export/to_trt.py again")
        return read


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What an engine can depend on.

    Args:
        platform: ``Linux x86_64`` …
        version: of the installed runtime of the engine's flavour, None where there is none.
        gpu: the one that CUDA counts as the first, or why there is none.
    """

    platform: str
    version: str | None
    gpu: Gpu | str


def require_fit(entry: EngineEntry, machine: Machine, card: ModelCard) -> None:
    """
    Raises:
        EngineUnavailable: the engine is for another TensorRT, operating system or GPU; says which, and what to do.
        EngineError: it is for another graph than the artifact's.
    """
    again = f"build it again here: python export/to_trt.py ckpt.pt --flavour {entry.flavour}"
    if entry.onnx_sha256 != card.files[GRAPH_NAME]:
        raise EngineError(f"the engine was built from another {GRAPH_NAME} than the model's; {again}")
    if machine.version is None:
        needed = f"{PACKAGES[entry.flavour]}=={entry.version}"
        raise EngineUnavailable(f"the engine needs {needed}, which is not installed; pip install {needed}")
    if isinstance(machine.gpu, str):
        raise EngineUnavailable(
            f"the engine needs an NVIDIA GPU and its driver; CUDA says {machine.gpu}; see what nvidia-smi says"
        )
    differences = []
    if machine.version != entry.version:
        differences.append(f"{entry.flavour} {entry.version}, here is {machine.version}")
    if entry.flavour == "tensorrt" and machine.platform != entry.platform:  # engines for RTX know no operating system
        differences.append(f"{entry.platform}, here is {machine.platform}")
    if not _takes(entry, machine.gpu.compute_capability):
        built_for = " or ".join(entry.compute_capabilities) or f"{_text(RTX_DEFAULT_CAPABILITY)} and later"
        differences.append(f"compute capability {built_for}, {machine.gpu.name} has {machine.gpu.compute_capability}")
    if differences:
        raise EngineUnavailable(f"the engine was built for {'; for '.join(differences)}; {again}")


def _takes(entry: EngineEntry, capability: str) -> bool:
    if entry.compute_capabilities:
        return capability in entry.compute_capabilities
    major, _, minor = capability.partition(".")
    return entry.flavour == "tensorrt_rtx" and (int(major), int(minor)) >= RTX_DEFAULT_CAPABILITY


def _text(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
