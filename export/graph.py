"""PyTorch model to ONNX graph."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
import torch

from dhvt.artifact import INPUT_NAME, OUTPUT_NAME
from dhvt.data.preprocess import Preprocess
from dhvt.errors import ExportError
from export.settings import OPSET_VERSION


def export_graph(model: torch.nn.Module, preprocess: Preprocess, path: Path, opset_version: int = OPSET_VERSION) -> None:
    """Writes the ONNX graph, one file, the batch being its only free dimension.

    Raises:
        ExportError: torch.export or the ONNX checker rejects it, or a LayerNorm was taken apart.
    """
    height, width = preprocess.size
    example = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
                opset_version=opset_version,
                verbose=False,
            )
        if program is None:
            raise ExportError("torch.onnx.export returned no program")
        program.save(path, external_data=False)
        graph = onnx.load(path)
        strip_metadata(graph)
        onnx.save(graph, path)
        onnx.checker.check_model(graph, full_check=True)
    except (torch.onnx.OnnxExporterError, onnx.checker.ValidationError, RuntimeError) as error:
        raise ExportError(f"the model cannot be exported: {error}") from error
    _require_whole_layernorms(model, graph)


def _require_whole_layernorms(model: torch.nn.Module, graph: onnx.ModelProto) -> None:
    expected = sum(isinstance(module, torch.nn.LayerNorm) for module in model.modules())
    found = sum(node.op_type == "LayerNormalization" for node in graph.graph.node)
    if found < expected:
        raise ExportError(f"the graph has {found} LayerNormalization nodes, expected {expected} as in the model")


def strip_metadata(graph: onnx.ModelProto) -> None:
    """Removes what the exporter notes beside the graph: stack traces, with paths of the machine that exported it."""
    for entry in (graph, graph.graph, *graph.graph.node, *graph.graph.value_info, *graph.graph.initializer, *graph.functions):
        del entry.metadata_props[:]
    for entry in (*graph.graph.input, *graph.graph.output):
        del entry.metadata_props[:]
    for node in graph.graph.node:
        node.doc_string = ""
