"""Half-precision graphs: TensorRT takes the precision of each layer from the graph."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import onnx
import timm.layers
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dhvt.errors import ExportError
from dhvt.model.dhvt import DHVT
from dhvt.model.inference import InferenceModel, Normalize

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


_PRODUCTS = ("Conv", "MatMul", "Gemm")
_KEPT_WHERE_READ = ("Add", "Gemm")


class Float32LayerNorm(nn.LayerNorm):
    """LayerNorm in float32 whatever its input: its variance is what half precision spoils in a transformer."""

    out_dtype: torch.dtype

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).to(self.out_dtype)


class CastModel(nn.Module):
    """An :class:`InferenceModel` whose network computes in other dtypes: its input in ``dtype``, its logits in float32."""

    def __init__(self, normalize: Normalize, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.normalize, self.model, self.dtype = normalize, model, dtype

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(self.normalize(images).to(self.dtype)).float()
        return logits


def cast(model: InferenceModel, precision: str) -> nn.Module:
    """A copy of the model in another precision: BatchNorm folded into the convolutions first, LayerNorm in float32.

    In a DHVT the residual stream and the head stay in float32 too: rounding the stream after each of 24 additions caused
    most of bf16's disagreement with float32. In bf16 the patch embedding, 3 to 10 % of the products, stays in float32 as
    well: otherwise the mean error of the logits is three times as large.

    Raises:
        ExportError: no such precision.
    """
    if precision not in DTYPES:
        raise ExportError(f"no precision {precision!r}; choose one of {', '.join(DTYPES)}")
    if precision == "fp32":
        return model
    network = copy.deepcopy(model.model).eval()
    fold_batchnorm(network)
    dtype = input_dtype = DTYPES[precision]
    values = copy.deepcopy(network.state_dict())
    network.to(dtype)
    for module in network.modules():
        if type(module) in (nn.LayerNorm, timm.layers.LayerNorm):
            module.float()
            module.__class__ = Float32LayerNorm
            assert isinstance(module, Float32LayerNorm)
            module.out_dtype = dtype
    if isinstance(network, DHVT):
        network.cls_token.data = network.cls_token.data.float()  # and so is what it is joined and added to
        assert isinstance(network.norm, Float32LayerNorm)
        network.norm.out_dtype = torch.float32
        network.head.float()
        if precision == "bf16":
            network.patch_embed.float()
            input_dtype = torch.float32
    network.load_state_dict(values)  # what went through the other dtype and back has lost its lower bits
    return CastModel(model.normalize, network, input_dtype).eval()


def cast_graph(graph: Path, precision: str, path: Path) -> None:
    """Converts a float32 graph to fp16, where there is no checkpoint for :func:`cast`.

    As there, some of it stays in float32: the normalisation of the pixels, LayerNorms, the additions that they read from
    (the residual stream), and the head. ONNX Runtime's converter does the rest.

    Raises:
        ExportError: the precision is another than fp16 and fp32, or the graph cannot be converted.
    """
    if precision not in ("fp16", "fp32"):
        raise ExportError(f"no precision {precision!r} for a graph; choose fp16 or fp32")
    if precision == "fp32":
        shutil.copy(graph, path)
        return
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    loaded = onnx.load(graph)
    nodes = loaded.graph.node
    producers = {output: node for node in nodes for output in node.output}
    first_product = next((index for index, node in enumerate(nodes) if node.op_type in _PRODUCTS), len(nodes))
    read = [node.input[0] for node in nodes if node.op_type == "LayerNormalization"] + [out.name for out in loaded.graph.output]
    kept = [*nodes[:first_product], *(producers[name] for name in read if producers[name].op_type in _KEPT_WHERE_READ)]
    converted = OnnxModel(
        convert_float_to_float16(
            loaded,
            keep_io_types=True,
            op_block_list=[*DEFAULT_OP_BLOCK_LIST, "LayerNormalization"],
            node_block_list=[node.name for node in kept],
        )
    )
    converted.remove_cascaded_cast_nodes()  # or what stays in float32 would be rounded on its way from one to the next
    converted.topological_sort()
    del converted.model.graph.value_info[:]  # the types that they had before
    try:
        onnx.checker.check_model(converted.model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{graph} cannot be converted to fp16: {error}; give the checkpoint instead") from error
    onnx.save(converted.model, path)


def fold_batchnorm(network: nn.Module) -> None:
    """Multiplies each BatchNorm into the convolution that stands before it among its module's children, in place."""
    for parent in network.modules():
        before: tuple[str, nn.Conv2d] | None = None
        for name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm2d and before is not None and before[1].out_channels == child.num_features:
                setattr(parent, before[0], fuse_conv_bn_eval(before[1], child))
                setattr(parent, name, nn.Identity())
            before = (name, child) if isinstance(child, nn.Conv2d) else None
