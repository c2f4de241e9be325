"""What an engine is made from, and compared with: a checkpoint, or a model folder alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dhvt.artifact import Artifact
from dhvt.data.batches import Predict
from dhvt.errors import ExportError
from dhvt.model.checkpoint import Checkpoint
from dhvt.model.inference import InferenceModel, torch_predict
from export.parity import onnxruntime_predict
from export.precision import cast, cast_graph
from export.to_onnx import OPSET_VERSION, Parts, export_graph, open_parts

OPSETS = {"bf16": 22}
"""The first that has convolutions in bf16; otherwise the artifact's."""


@dataclass(frozen=True, kw_only=True)
class Original:
    """A model in float32, which can be had as a graph in another precision.

    Args:
        reference: its logits, computed on the CPU.
        write_graph: with a precision and a path, writes that graph; returns the name of the runtime that computes it on the
            CPU, and its logits there. Raises ExportError.
        open_parts: opens ``--data``; see :func:`export.to_onnx.open_parts`.
    """

    reference: Predict
    write_graph: Callable[[str, Path], tuple[str, Predict]]
    open_parts: Callable[[str | None], Parts | None]


def original_of_checkpoint(checkpoint: Checkpoint) -> Original:
    """PyTorch casts it, and exports what it has cast."""
    preprocess = checkpoint.build_preprocess()
    model = InferenceModel(checkpoint.build_model(), preprocess).eval()

    def write_graph(precision: str, path: Path) -> tuple[str, Predict]:
        converted = cast(model, precision)
        export_graph(converted, preprocess, path, OPSETS.get(precision, OPSET_VERSION))
        if precision == "bf16":  # which ONNX Runtime cannot compute on a CPU
            return "torch", torch_predict(converted)
        return "onnxruntime", onnxruntime_predict(path)

    return Original(
        reference=torch_predict(model),
        write_graph=write_graph,
        open_parts=lambda data: open_parts(data, checkpoint.classes, checkpoint.data, checkpoint.recipe.get("seed", 0)),
    )


def original_of_artifact(artifact: Artifact) -> Original:
    """ONNX Runtime casts its graph, which has float32 and fp16 alone."""

    def write_graph(precision: str, path: Path) -> tuple[str, Predict]:
        if precision == "bf16":
            raise ExportError("a model folder alone gives engines in fp16 and fp32; for bf16 give the checkpoint that it is of")
        cast_graph(artifact.graph_path, precision, path)
        return "onnxruntime", onnxruntime_predict(path)

    return Original(
        reference=onnxruntime_predict(artifact.graph_path),
        write_graph=write_graph,
        open_parts=lambda data: open_parts(data, artifact.card.classes),
    )
