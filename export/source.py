"""The model that is exported: a checkpoint, or a model folder alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dhvt.artifact import Artifact, Golden, ModelCard
from dhvt.data.batches import Predict
from dhvt.data.preprocess import preprocess_image
from dhvt.errors import ExportError
from dhvt.model.attention import attention_outputs
from dhvt.model.checkpoint import Checkpoint
from dhvt.model.inference import InferenceModel, torch_predict
from dhvt.naming import fit_name
from export.golden import draw_images, encode_base64
from export.graph import export_graph
from export.parity import onnxruntime_predict
from export.precision import cast, cast_graph
from export.settings import OPSET_VERSION

OPSETS = {"bf16": 22}
"""The first that has convolutions in bf16; otherwise the artifact's."""


class Source(Protocol):
    """A model in float32, from which graphs in any precision are written."""

    @property
    def card(self) -> ModelCard:
        """What is known of the model; without variants where nothing was exported yet."""
        ...

    @property
    def reference(self) -> Predict:
        """Its logits in float32, computed on the CPU."""
        ...

    def attention(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]] | None:
        """PyTorch's outputs for the graph with the attention, of a model with head tokens; None without PyTorch's model."""
        ...

    def write_graph(self, precision: str, path: Path, opset_version: int | None = None) -> tuple[str, Predict]:
        """Writes the graph in a precision.

        Returns:
            The runtime that computes this precision on the CPU, and the logits there.

        Raises:
            ExportError: it cannot be written in this precision.
        """
        ...


class CheckpointSource:
    """A checkpoint: PyTorch casts the model, and exports the result.

    Args:
        resize_mode: of the served model, where it differs from the training's.
        name: of the served model, where the checkpoint has none.
    """

    def __init__(self, checkpoint: Checkpoint, resize_mode: str | None = None, name: str | None = None) -> None:
        if resize_mode is not None:
            preprocess = checkpoint.preprocess | {"resize_mode": resize_mode}
            if preprocess != checkpoint.preprocess:  # what was measured in validation is of the other mode
                measured = {name: value for name, value in checkpoint.metrics.items() if not name.startswith("val_")}
                checkpoint = replace(checkpoint, preprocess=preprocess, metrics=measured)
        self._preprocess = checkpoint.build_preprocess()
        self._model = InferenceModel(checkpoint.build_model(), self._preprocess).eval()
        self.reference: Predict = torch_predict(self._model)
        images = draw_images()
        inputs = np.stack([preprocess_image(image, self._preprocess) for image in images])
        self.card = ModelCard(
            name=checkpoint.model_name or name or fit_name(checkpoint.name),
            architecture=checkpoint.name,
            classes=checkpoint.classes,
            preprocess=self._preprocess,
            golden=Golden(images=encode_base64(images), logits=self.reference(inputs).tolist()),
            variants=(),
            temperature=checkpoint.temperature,
            metrics=checkpoint.metrics,
            recipe=checkpoint.recipe,
            provenance=checkpoint.provenance,
            data=checkpoint.data,
        )

    def attention(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]] | None:
        return attention_outputs(self._model, images)

    def write_graph(self, precision: str, path: Path, opset_version: int | None = None) -> tuple[str, Predict]:
        converted = cast(self._model, precision)
        export_graph(converted, self._preprocess, path, opset_version or OPSETS.get(precision, OPSET_VERSION))
        if precision == "bf16":  # which ONNX Runtime cannot compute on a CPU
            return "torch", torch_predict(converted)
        return "onnxruntime", onnxruntime_predict(path)


class ArtifactSource:
    """A model folder: ONNX Runtime's converter casts its graph, to fp16 alone."""

    def __init__(self, artifact: Artifact) -> None:
        self._graph = artifact.graph_path
        self.card = artifact.card
        self.reference: Predict = onnxruntime_predict(self._graph)

    def attention(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]] | None:
        return None

    def write_graph(self, precision: str, path: Path, opset_version: int | None = None) -> tuple[str, Predict]:
        if precision == "bf16":
            raise ExportError("a model folder alone can be exported in fp32 and fp16; for bf16 give its checkpoint")
        cast_graph(self._graph, precision, path)
        return "onnxruntime", onnxruntime_predict(path)
