"""The target ``tensorrt``: an engine compiled by TensorRT, or by TensorRT for RTX, for NVIDIA GPUs."""

from __future__ import annotations

import platform
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dhvt.artifact import ENGINE_NAME, GRAPH_NAME, TENSORRT, ModelCard, Variant
from dhvt.data.batches import Predict
from dhvt.evaluation.agreement import TOLERANCES, Comparison
from export.settings import TensorRTSettings
from export.targets.registry import Job, Target

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ENGINE_RUNTIME = "tensorrt"
"""The runtime of a comparison of the engine itself; the graph that it was built from is compared in another."""


def add_tensorrt(job: Job, card: ModelCard, settings: TensorRTSettings) -> ModelCard:
    """Writes the graph in the engine's precision, compares it with float32, compiles it, and compares the engine where
    there is a GPU that it is for.

    Raises:
        ExportError: the engine cannot be built.
        ParityError: the graph or the engine disagrees by more than the precision explains.
    """
    from export.engine import build_engine, pick_flavour
    from export.images import comparison_images, describe_compared
    from export.parity import compare_outputs, describe

    flavour = pick_flavour(settings.flavour)
    images, labels = comparison_images(job.images, card.preprocess)
    precision, tolerance = settings.precision, TOLERANCES[settings.precision]
    with tempfile.TemporaryDirectory() as temporary:
        graph = Path(temporary) / f"model.{precision}.onnx"
        runtime, predict = job.source.write_graph(precision, graph)
        name = f"{runtime} in {precision}"
        compared = [compare_outputs(name, job.source.reference, predict, images, tolerance, labels=labels)]
        job.log(f"before compilation: {describe(compared[0].to_dict())}")
        engine = build_engine(graph, card.preprocess.size, settings)
    if runs_here(flavour, settings):
        compared.append(compare_engine(job.source.reference, engine, settings, images, labels))
        job.log(f"the engine on this GPU: {describe(compared[1].to_dict())}")
    else:
        job.log("the engine on this GPU: not run, there is none that it is for; the server compares it before it serves")
    (job.folder / ENGINE_NAME).write_bytes(engine)
    hardware = describe_hardware(flavour, settings) | {"onnx_sha256": card.files[GRAPH_NAME]}
    comparisons = [comparison.to_dict() for comparison in compared]
    parity = {"tolerance": tolerance.on_sample(len(images)).to_dict(), "comparisons": comparisons} | describe_compared(
        job.images
    )
    job.log(f"{flavour} {hardware['version']}, {precision}: {ENGINE_NAME}")
    files = (ENGINE_NAME,)
    return card.with_variant(Variant(format=TENSORRT, precision=precision, files=files, hardware=hardware, parity=parity))


def compare_engine(
    reference: Predict,
    engine: bytes,
    settings: TensorRTSettings,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64] | None = None,
) -> Comparison:
    """Compares the engine itself, on this machine's GPU, with float32 on the CPU; at its largest batch too.

    Raises:
        ExportError: it does not run here.
        ParityError: it disagrees by more than the precision explains.
    """
    from export.engine import running_engine
    from export.parity import BATCH_SIZES, compare_outputs

    tolerance, largest = TOLERANCES[settings.precision], settings.max_batch_size
    sizes = (*BATCH_SIZES, largest)
    with running_engine(engine, settings.min_batch_size, largest) as predict:
        return compare_outputs(ENGINE_RUNTIME, reference, predict, images, tolerance, labels=labels, batch_sizes=sizes)


def _capability_here() -> tuple[int, int] | None:
    import torch

    return torch.cuda.get_device_capability() if torch.cuda.is_available() else None


def _built_for(flavour: str, settings: TensorRTSettings) -> list[tuple[int, int]]:
    """The compute capabilities; empty for all that ``tensorrt_rtx`` builds for by default."""
    here = _capability_here()
    return [here] if flavour == "tensorrt" and here else settings.capabilities()


def runs_here(flavour: str, settings: TensorRTSettings) -> bool:
    """Whether this machine has a GPU that the engine is for."""
    from dhvt.hardware.gpus import RTX_DEFAULT_CAPABILITIES

    here = _capability_here()
    if here is None:
        return False
    capabilities = _built_for(flavour, settings)
    return here in capabilities if capabilities else f"{here[0]}.{here[1]}" in RTX_DEFAULT_CAPABILITIES


def describe_hardware(flavour: str, settings: TensorRTSettings) -> dict[str, Any]:
    """What the engine was built with and for, as its variant records it."""
    import torch

    from dhvt.hardware.gpus import read_driver
    from export.engine import import_flavour

    here, driver = torch.cuda.is_available(), read_driver()
    return {
        "flavour": flavour,
        "version": import_flavour(flavour).__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "cuda": torch.version.cuda if here else None,
        "driver": driver.version if driver else None,
        "gpu": torch.cuda.get_device_name() if here else None,
        "compute_capabilities": [f"{major}.{minor}" for major, minor in _built_for(flavour, settings)],
        "profile": settings.profile,
    }


TARGET = Target(
    help="an engine for NVIDIA GPUs",
    settings=TensorRTSettings,
    packages=("torch", "timm", "onnx", "onnxscript", "onnxruntime", "polygraphy"),
    install="pip install 'dhvt-serve[gpu,trt]' tensorrt, or without a GPU 'dhvt-serve[cpu,trt]' tensorrt-rtx",
    add=add_tensorrt,
)
