"""The target ``onnx``: the float32 graph, which every artifact has."""

from __future__ import annotations

from dataclasses import replace

from dhvt.artifact import GRAPH_NAME, ONNX, ModelCard, Variant
from dhvt.evaluation.agreement import FP32
from export.settings import OnnxSettings
from export.targets.registry import Job, Target


def add_onnx(job: Job, card: ModelCard, settings: OnnxSettings) -> ModelCard:
    """Writes ``model.onnx`` after its outputs were compared with PyTorch's in every runtime that is installed.

    Raises:
        ExportError: the model cannot be exported.
        ParityError: a runtime disagrees with PyTorch.
    """
    from export.images import comparison_images, describe_compared
    from export.parity import compare_outputs, describe, installed_runtimes, installed_versions

    path = job.folder / GRAPH_NAME
    job.source.write_graph("fp32", path, settings.opset_version)
    images, labels = comparison_images(job.images, card.preprocess)
    kind = "drawn" if job.images is None else "real"
    comparisons = []
    for name, load in installed_runtimes().items():
        compared = compare_outputs(name, job.source.reference, load(path), images, FP32, labels=labels)
        comparisons.append(compared.to_dict())
        job.log(f"{name}: {describe(compared.to_dict(), f'{kind} images')}")
    parity = {"tolerance": FP32.to_dict(), "comparisons": comparisons} | describe_compared(job.images)
    runtimes = ("onnxruntime", "onnxruntime-gpu", "openvino")
    versions = installed_versions("dhvt-serve", "torch", "onnx", *runtimes, "numpy", "pillow")
    versions["onnx_opset"] = str(settings.opset_version)
    variant = Variant(format=ONNX, precision="fp32", files=(GRAPH_NAME,), parity=parity)
    return replace(card, versions=versions).with_variant(variant)


TARGET = Target(
    help="the graph in float32",
    settings=OnnxSettings,
    packages=("torch", "timm", "onnx", "onnxscript", "onnxruntime"),
    install="pip install 'dhvt-serve[cpu,export]', with a GPU 'dhvt-serve[gpu,export]'",
    add=add_onnx,
)
