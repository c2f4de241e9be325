"""Settings of an export, each a field with its help text: those of every export, and those of single targets.

No file of a runtime or of PyTorch is imported here, because ``--help`` needs these.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dhvt.configuration import require
from dhvt.data.preprocess import ResizeMode
from dhvt.errors import ConfigError
from dhvt.naming import check_name, check_version
from dhvt.training.fields import convert_fields, option

OPSET_VERSION = 20
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options that targets share."""

    data: str | None = option(
        None,
        "Real images to compare on and measure accuracy, laid out as for dhvt train; int8 is calibrated on them. "
        "Default: drawn images.",
    )
    val: str | None = option(
        None,
        "Images to compare on, where training did not hold them out of --data: what was given to dhvt train as --val.",
    )
    resize_mode: ResizeMode | None = option(None, "How images of another shape become the input's. Default: as in training.")
    name: str | None = option(None, "Name of the model. Default: that of its training, else made of --data's.")
    version: str | None = option(
        None, "Version of the model. Default: the date and the start of its digest, as 20261124-1a2b3c4d."
    )

    def __post_init__(self) -> None:
        convert_fields(self)
        if self.name is not None:
            check_name(self.name)
        if self.version is not None:
            check_version(self.version)


@dataclass(frozen=True, kw_only=True)
class OnnxSettings:
    """Settings of the float32 graph."""

    opset_version: int = option(OPSET_VERSION, "ONNX opset of the float32 graph.", minimum=17)  # from 17 LayerNorm is one node

    def __post_init__(self) -> None:
        convert_fields(self)


@dataclass(frozen=True, kw_only=True)
class TensorRTSettings:
    """Settings of an engine.

    Raises:
        ConfigError: a value is out of range, or the batch sizes do not rise.
    """

    precision: Literal["fp32", "fp16", "bf16"] = option("fp16", "Precision of the engine.")
    min_batch_size: int = option(1, "Smallest batch that the engine takes.")
    opt_batch_size: int = option(16, "Batch size that the engine is fastest at.")
    max_batch_size: int = option(64, "Largest batch that the engine takes.")
    flavour: Literal["auto", "tensorrt", "tensorrt_rtx"] = option(
        "auto", "TensorRT to build with: tensorrt for the GPU of this machine, tensorrt_rtx for GeForce and RTX GPUs."
    )
    compute_capability: list[str] = option(
        list, "Compute capability of a GPU to build for, as 8.9; tensorrt_rtx alone; may be given several times."
    )
    workspace: float | None = option(
        None, "GiB that a layer may use for intermediate results. Default: the GPU's.", minimum=0, exclusive=True
    )
    timing_cache: Path | None = option(None, "File that makes the next build faster; tensorrt alone.")

    def __post_init__(self) -> None:
        convert_fields(self)
        smallest, best, largest = self.profile.values()
        require(
            1 <= smallest <= best <= largest,
            f"batch sizes are {smallest}, {best}, {largest}; they must be at least 1 and rise from min over opt to max",
        )
        self.capabilities()

    @property
    def profile(self) -> dict[str, int]:
        """Batch sizes, as ``model.json`` records them."""
        return {name: getattr(self, name) for name in ("min_batch_size", "opt_batch_size", "max_batch_size")}

    def capabilities(self) -> list[tuple[int, int]]:
        """The compute capabilities to build for, such as ``(8, 9)``; empty for the flavour's own choice."""
        return [_parse_capability(text) for text in self.compute_capability]


@dataclass(frozen=True, kw_only=True)
class TimmSettings:
    """Settings of a folder for timm.

    Raises:
        ConfigError: the repository's name is not of the form ``user/name``.
    """

    push: str | None = option(
        None, "Upload the folder to this repository on the Hugging Face Hub too, as user/name; needs hf auth login or HF_TOKEN."
    )
    public: bool = option(
        False, "With --push: make the repository public, where it is a new one. Default: private.", saved=False
    )

    def __post_init__(self) -> None:
        convert_fields(self)
        if self.push is not None and not _REPOSITORY.fullmatch(self.push):
            raise ConfigError(f"push is {self.push!r}; give a repository as user/name")
        require(not self.public or self.push is not None, "--public needs --push user/name")


@dataclass(frozen=True, kw_only=True)
class TritonSettings:
    """Settings of a model in Triton's model repository."""

    triton_max_batch_size: int = option(64, "Largest batch that Triton makes of requests.", minimum=1)
    max_queue_delay_ms: float = option(1.0, "How long Triton lets a request wait for others.", minimum=0)
    instances: int = option(1, "Copies of the model that run at once.", minimum=1)
    instance_kind: Literal["auto", "cpu", "gpu"] = option("auto", "What they run on: auto is a GPU where Triton has one.")

    def __post_init__(self) -> None:
        convert_fields(self)


def _parse_capability(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    if not (major.isdigit() and minor.isdigit()):
        raise ConfigError(f"compute capability {text!r} is not of the form 8.9")
    return int(major), int(minor)
