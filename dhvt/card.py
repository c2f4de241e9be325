"""The card of a model folder, ``model.json``: what is known of the model, its variants and its self-test."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhvt.configuration import require
from dhvt.data.preprocess import Preprocess
from dhvt.naming import check_name, check_version

GRAPH_NAME = "model.onnx"
INT8_NAMES = ("model.int8.xml", "model.int8.bin")
ENGINE_NAME = "model.engine"
EXPLAIN_NAME = "model.explain.onnx"
CARD_NAME = "model.json"
REFERENCE_NAME = "reference.npz"
SIGNATURE_NAME = "model.json.sig"
PROMISES = ("coverage", "rejection", "calibration")
"""What ``dhvt evaluate --record`` measures of a model with a reference, in an entry of ``metrics``."""

INPUT_NAME = "images"
OUTPUT_NAME = "logits"

ONNX, OPENVINO, TENSORRT, EXPLAIN = "onnx", "openvino", "tensorrt", "explain"
"""The formats of variants: an ONNX graph, OpenVINO's IR, an engine of TensorRT or TensorRT for RTX, and the ONNX graph that
gives the attention too, which no engine runs."""

CLASS_ATTENTION, HEAD_TOKEN_ATTENTION, ROLLOUT = "class_attention", "head_token_attention", "rollout"
"""Further outputs of the graph with the attention; see docs/artifact.md."""

GRID_KEY = "dhvt_grid"
"""Where that graph's metadata has the patches per column and per row, as ``8 8``."""

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
        format: ``onnx``, ``openvino``, ``tensorrt`` or ``explain``.
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
            valid = isinstance(name, str) and _FILE_NAME.fullmatch(name) is not None
            valid = valid and name not in (CARD_NAME, REFERENCE_NAME, SIGNATURE_NAME)
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
        name: the model's name: ``--name``, else made of the name of ``--data``; up to 63 of ``a-z``, ``0-9``, ``.``, ``_``,
            ``-``, see :mod:`dhvt.naming`.
        version: ``--version``, else date and the start of the digest, as ``20261124-1a2b3c4d``; empty until its files are
            written.
        architecture: of the network, such as ``dhvt_tiny_cifar_patch4``.
        classes: class names in label order.
        preprocess: how an image becomes the input, a :class:`~dhvt.data.preprocess.Preprocess`.
        golden: the self-test, a :class:`Golden`.
        variants: the graphs and engines, the float32 graph first, each a :class:`Variant`.
        temperature: what logits are divided by before they become scores; fitted on held-out images.
        files: SHA-256 by file name, of every variant's files and of the reference, and of no other.
        data: fingerprints of the images, by ``training``, ``validation``, ``reference`` (that the training held out for it),
            ``calibration`` (of int8) and ``test``; what is not known is absent. Each has the fields of
            :class:`dhvt.data.fingerprint.Fingerprint`, and ``source``, where they came from.
        reference: of the images of ``reference.npz``, see :class:`dhvt.confidence.reference.Reference`: their fingerprint,
            ``source``, and the ``precisions`` that were measured; empty without that file.
        metrics: of the checkpoint, on its validation images, as ``val_top1`` (with ``val_chose_weights`` these images also
            chose the weights, and their figures are a little too good); under ``test`` what ``dhvt evaluate --record`` measured
            on a test split or on undivided images, under ``val`` or ``train`` on such a split, and under ``all`` on undivided
            images of which the model has seen more than 1 %.
        recipe: how it was trained.
        provenance: ``commands`` that trained it, ``exports`` that made the artifact (command, targets, resize mode, settings),
            device and versions at training.
        versions: of the tools that exported it, ``dhvt-serve`` among them, and the graph's ``onnx_opset``.
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
    reference: dict[str, Any] = field(default_factory=dict)
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
        """A hash of everything that decides an answer: files, classes, preprocessing, temperature and golden logits.

        The graph with the attention is not among them: it explains answers, and decides none.
        """
        return self._digest({name: value for name, value in self.files.items() if name != EXPLAIN_NAME})

    def without_promises(self) -> ModelCard:
        """The card without what was measured of its reference: coverage, rejection, calibration."""
        metrics = {
            name: {key: value for key, value in entry.items() if key not in PROMISES} if isinstance(entry, dict) else entry
            for name, entry in self.metrics.items()
        }
        return replace(self, metrics=metrics)

    @property
    def engine_digest(self) -> str:
        """The same without the reference, on which no engine depends."""
        others = (EXPLAIN_NAME, REFERENCE_NAME)
        return self._digest({name: value for name, value in self.files.items() if name not in others})

    def _digest(self, files: dict[str, str]) -> str:
        decisive = [files, self.golden.logits, self.classes, self.preprocess.to_dict(), self.temperature]
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    def find_variant(self, *, format: str | None = None, precision: str | None = None) -> Variant | None:
        """The first variant of this format and precision; None where there is none."""
        for variant in self.variants:
            if format in (None, variant.format) and precision in (None, variant.precision):
                return variant
        return None

    def find_run(self, engine: str, precision: str) -> Variant | None:
        """The variant that an engine runs in a precision; None where it converts the float32 graph, as OpenVINO for bf16."""
        if engine == "tensorrt":
            return self.find_variant(format=TENSORRT, precision=precision)
        return self.find_variant(format=ONNX if precision == "fp32" else OPENVINO, precision=precision)

    def with_variant(self, added: Variant) -> ModelCard:
        """A card with one more variant, in the place of those that have its format and precision, or one of its files."""
        kept = [
            variant
            for variant in self.variants
            if (variant.format, variant.precision) != (added.format, added.precision) and not {*variant.files} & {*added.files}
        ]
        return replace(self, variants=(*kept, added))


def top1_loss(comparison: Mapping[str, Any]) -> float | None:
    """What a runtime costs in percentage points of top-1, to hold against a limit; None where there are no labels.

    Args:
        comparison: one of a variant's ``parity``.
    """
    top1, reference = comparison.get("top1"), comparison.get("top1_reference")
    return None if top1 is None or reference is None else round(reference - top1, 6)  # so that 0.2 points are 0.2
