"""The graph that gives the attention beside the logits: ``model.onnx`` with further outputs, and with its weights.

It is made from the exported graph, not from PyTorch a second time, so both compute the same; the softmax of each layer is an
ordinary node of it. Its file has the nodes alone: the weights stay in ``model.onnx`` as external data of ONNX.

Outputs, with L layers, P patches and h head tokens:

logits                as in ``model.onnx``
class_attention       ``(batch, L, P)``: attention of the class token to the patches, mean over the attention heads
head_token_attention  ``(batch, L, h, P)``: the same of each head token
rollout               ``(batch, L, P)``: rollout of the class token after each layer down to the patches of the image

Rollout (Abnar and Zuidema, 2020) multiplies the layers' mixing of tokens, each with its residual connection, every row divided
by its sum. A layer of a DHVT mixes as ``I + C A E``, A being the attention of all tokens, mean over the heads: E makes
the tokens that take part, the N tokens and the head tokens, which are made in every layer of the mean over all N; and C adds
the mean of the head tokens to the class token. What the feed-forward layers mix is not followed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from dhvt.card import CLASS_ATTENTION, GRID_KEY, HEAD_TOKEN_ATTENTION, ROLLOUT
from dhvt.errors import ExportError

HEAD_TOKEN_LAYER = ".attn.ht_proj."
"""Part of the names of the weights that make head tokens."""

LEAST_SHARED_BYTES = 1024
"""Smaller constants are in both files."""


@dataclass(frozen=True)
class Attention:
    """The attention of a graph's layers.

    Args:
        layers: names of the softmax outputs ``(batch, heads, tokens, tokens)``, the first layer first.
        head_tokens: one for each attention head.
        grid: patches per column and per row.
    """

    layers: list[str]
    head_tokens: int
    grid: tuple[int, int]


def find_attention(graph: onnx.GraphProto, size: tuple[int, int]) -> Attention | None:
    """The attention of a DHVT's graph; None of a model without head tokens.

    Args:
        size: ``(H, W)`` of the images.
    """
    if not any(HEAD_TOKEN_LAYER in tensor.name for tensor in graph.initializer):
        return None
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in graph.value_info}
    layers = [node.output[0] for node in graph.node if node.op_type == "Softmax"]
    found = {tuple(shapes.get(name, [])[1:]) for name in layers}
    if len(found) != 1 or len(shape := found.pop()) != 3 or shape[1] != shape[2]:
        return None
    heads, tokens, _ = shape  # class token, patches and head tokens
    grid = _find_grid(tokens - 1 - heads, size)
    return None if grid is None else Attention(layers, heads, grid)


def _find_grid(patches: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """The grid that so many square patches make of an image; None where they make none."""
    height, width = size
    side = math.isqrt(height * width // max(patches, 1))
    if patches < 1 or side < 1 or height % side or width % side or height // side * (width // side) != patches:
        return None
    return height // side, width // side


def write_explain_graph(source: Path, path: Path, size: tuple[int, int]) -> bool:
    """Writes the graph beside ``source``, the ``model.onnx`` that keeps the weights.

    Returns:
        Whether the model has attention to show; nothing is written where it has none.

    Raises:
        ExportError: ONNX's checker rejects the graph.
    """
    model = onnx.load(source)
    attention = find_attention(model.graph, size)
    if attention is None:
        return False
    _add_outputs(model.graph, attention)
    helper.set_model_props(model, {GRID_KEY: " ".join(map(str, attention.grid))})
    _share_weights(model.graph, source)
    onnx.save(model, path)
    try:
        onnx.checker.check_model(path, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the graph with the attention is invalid: {error}") from error
    return True


def _share_weights(graph: onnx.GraphProto, source: Path) -> None:
    """Leaves the larger constants out of the graph, and names their place in ``source`` in their stead."""
    content = source.read_bytes()
    start = 0
    for tensor in graph.initializer:
        data = tensor.raw_data
        if len(data) < LEAST_SHARED_BYTES:
            continue
        offset = content.find(data, start)  # constants lie in the file in the graph's order
        if offset >= 0:
            start = offset + len(data)
            external_data_helper.set_external_data(tensor, source.name, offset, len(data))
            tensor.ClearField("raw_data")


class _Nodes:
    """Adds nodes to a graph, each with one output."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._count = 0

    def constant(self, values: object, dtype: type[np.generic] = np.int64) -> str:
        name = self._name()
        self._graph.initializer.append(numpy_helper.from_array(np.array(values, dtype), name))
        return name

    def add(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        name = output or self._name()
        self._graph.node.append(helper.make_node(kind, list(inputs), [name], name=f"node_{name}", **attributes))
        return name

    def slice(self, value: str, axis: int, start: int, end: int, output: str | None = None) -> str:
        bounds = (self.constant([bound]) for bound in (start, end, axis))
        return self.add("Slice", value, *bounds, output=output)

    def stack(self, values: list[str], output: str) -> None:
        """An output of the graph: the values, one for each layer, along a new axis after the batch."""
        axes = self.constant([1])
        layers = [self.add("Unsqueeze", value, axes) for value in values]
        self.add("Concat", *layers, axis=1, output=output)

    def _name(self) -> str:
        self._count += 1
        return f"explain_{self._count}"


def _add_outputs(graph: onnx.GraphProto, attention: Attention) -> None:
    nodes = _Nodes(graph)
    heads_axis = nodes.constant([1])
    means = [nodes.add("ReduceMean", layer, heads_axis, keepdims=0) for layer in attention.layers]  # (B, T, T)
    patches = math.prod(attention.grid)
    to_patches = [nodes.slice(mean, 2, 1, 1 + patches) for mean in means]  # (B, T, P)
    nodes.stack([nodes.add("Squeeze", nodes.slice(rows, 1, 0, 1), heads_axis) for rows in to_patches], CLASS_ATTENTION)
    end = 1 + patches + attention.head_tokens
    nodes.stack([nodes.slice(rows, 1, 1 + patches, end) for rows in to_patches], HEAD_TOKEN_ATTENTION)
    _add_rollout(nodes, means, patches, attention.head_tokens)
    depth = len(means)
    shapes = {
        CLASS_ATTENTION: (depth, patches),
        HEAD_TOKEN_ATTENTION: (depth, attention.head_tokens, patches),
        ROLLOUT: (depth, patches),
    }
    batch = graph.output[0].type.tensor_type.shape.dim[0].dim_param
    for name, shape in shapes.items():
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape]))


def _add_rollout(nodes: _Nodes, means: list[str], patches: int, head_tokens: int) -> None:
    """Takes the class token's row through the layers, the last layer first; each layer starts one row more.

    A row v becomes ``v / s + (v / s) C A E``, s being the sums of the rows of ``I + C A E``: 3 for the class token (itself, its
    attention, the mean of the head tokens'), and 2 for a patch.
    """
    tokens = 1 + patches
    sums = nodes.constant([[[3.0, *[2.0] * patches]]], np.float32)
    start = nodes.constant([[[1.0, *[0.0] * patches]]], np.float32)  # (1, 1, N)
    each = nodes.constant([[[1 / head_tokens] * head_tokens]], np.float32)
    zeros = nodes.add("Mul", nodes.slice(nodes.slice(means[0], 2, 0, tokens), 1, 0, 1), nodes.constant(0.0, np.float32))
    first = nodes.add("Add", zeros, start)  # (B, 1, N), for the batch's size
    rows = ""
    for mean in reversed(means):
        rows = nodes.add("Concat", rows, first, axis=1) if rows else first  # (B, k, N)
        share = nodes.add("Div", rows, sums)
        taken = nodes.add("Concat", share, nodes.add("Mul", nodes.slice(share, 2, 0, 1), each), axis=2)  # (B, k, T), by C
        mixed = nodes.add("MatMul", taken, mean)  # (B, k, T)
        through = nodes.slice(mixed, 2, tokens, tokens + head_tokens)  # (B, k, h)
        total = nodes.add("ReduceSum", through, nodes.constant([2]))
        spread = nodes.add("Div", total, nodes.constant(float(tokens), np.float32))
        rows = nodes.add("Add", nodes.add("Add", share, nodes.slice(mixed, 2, 0, tokens)), spread)  # by E
    layers = nodes.constant(list(reversed(range(len(means)))))  # the last layer's row came first
    nodes.slice(nodes.add("Gather", rows, layers, axis=1), 2, 1, tokens, output=ROLLOUT)
