"""Whether the TensorRT engine of an artifact fits this machine, decided from facts alone; no GPU is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dhvt.artifact import GRAPH_NAME, TENSORRT, ModelCard
from dhvt.errors import EngineError, EngineUnavailable
from dhvt.hardware.gpus import RTX_CAPABILITIES, RTX_DEFAULT_CAPABILITIES, Gpu

PACKAGES = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}
"""What to install for a flavour."""
REBUILD = "dhvt export ckpt.pt --target tensorrt"
"""The command that builds an engine."""


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
        gpu: name of the GPU on which it was built; None where there was none.
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
    gpu: str | None = None

    @classmethod
    def from_card(cls, card: ModelCard) -> EngineEntry:
        """
        Raises:
            EngineUnavailable: the artifact has no engine.
            EngineError: its entry is not one that this version writes.
        """
        variant = card.find_variant(format=TENSORRT)
        if variant is None:
            raise EngineUnavailable(f"the model has no TensorRT engine; {REBUILD} adds one")
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
                gpu=entry.get("gpu"),
            )
        except (KeyError, TypeError) as error:
            raise EngineError(f"model.json lacks a fact of its engine ({error}); repeat {REBUILD}") from error
        if read.flavour not in PACKAGES:
            raise EngineError(f"model.json names {read.flavour!r} as its engine's flavour; repeat {REBUILD}")
        if not 1 <= read.min_batch_size <= read.max_batch_size:
            sizes = f"{read.min_batch_size} to {read.max_batch_size}"
            raise EngineError(f"model.json gives its engine batches of {sizes}; repeat {REBUILD}")
        return read


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The facts of a machine that an engine depends on.

    Args:
        platform: ``Linux x86_64`` …
        version: of the installed runtime of the engine's flavour, None if it is not installed.
        gpu: the GPU that the engine would run on, or why there is none.
    """

    platform: str
    version: str | None
    gpu: Gpu | str


def require_fit(entry: EngineEntry, machine: Machine, card: ModelCard) -> None:
    """
    Raises:
        EngineUnavailable: the engine is for another TensorRT, operating system or GPU; the message names it and the fix.
        EngineError: it is for another graph than the artifact's.
    """
    again = f"build it again here: {REBUILD} --flavour {entry.flavour}"
    if entry.onnx_sha256 != card.files[GRAPH_NAME]:
        raise EngineError(f"the engine was built from another {GRAPH_NAME} than the model's; {again}")
    if machine.version is None:
        needed = f"{PACKAGES[entry.flavour]}=={entry.version}"
        raise EngineUnavailable(f"the engine needs {needed}, which is not installed; pip install {needed}")
    if isinstance(machine.gpu, str):
        raise EngineUnavailable(
            f"the engine needs an NVIDIA GPU and its driver; CUDA says {machine.gpu}; nvidia-smi shows whether there is one"
        )
    if entry.flavour == "tensorrt_rtx" and machine.gpu.compute_capability not in RTX_CAPABILITIES:
        raise EngineUnavailable(
            f"TensorRT for RTX supports the compute capabilities {', '.join(RTX_CAPABILITIES)}, {machine.gpu.name} has "
            f"{machine.gpu.compute_capability}; build an engine for it here: {REBUILD} --flavour tensorrt"
        )
    differences = []
    if machine.version != entry.version:
        differences.append(f"{entry.flavour} {entry.version}, here is {machine.version}")
    if entry.flavour == "tensorrt" and machine.platform != entry.platform:  # engines for RTX know no operating system
        differences.append(f"{entry.platform}, here is {machine.platform}")
    if not _takes(entry, machine.gpu.compute_capability):
        built_for = " or ".join(entry.compute_capabilities or RTX_DEFAULT_CAPABILITIES)
        differences.append(f"compute capability {built_for}, {machine.gpu.name} has {machine.gpu.compute_capability}")
    if differences:
        raise EngineUnavailable(f"the engine was built for {'; for '.join(differences)}; {again}")


def tuning_warning(entry: EngineEntry, machine: Machine) -> str | None:
    """A warning if TensorRT tuned the engine for another model of GPU; None if not, or if that is unknown.

    GPUs of one compute capability, such as an L4 and an RTX 4090, run each other's engines, but not at full speed. TensorRT
    for RTX tunes an engine where it runs.
    """
    if entry.flavour != "tensorrt" or entry.gpu is None or isinstance(machine.gpu, str) or machine.gpu.name == entry.gpu:
        return None
    return (
        f"the engine was tuned on {entry.gpu} and runs on {machine.gpu.name}, perhaps slower than it could; build it again "
        f"here: {REBUILD} --flavour tensorrt"
    )


def _takes(entry: EngineEntry, capability: str) -> bool:
    defaults = RTX_DEFAULT_CAPABILITIES if entry.flavour == "tensorrt_rtx" else ()
    return capability in (entry.compute_capabilities or defaults)
