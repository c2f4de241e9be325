"""Checkpoint to artifact: ``python export/to_onnx.py runs/mine/ckpt.pt --data images/``."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

if __package__ in (None, ""):  # run as a script: the folder above holds the packages
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click
import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from dhvt.artifact import (
    GRAPH_NAME,
    INPUT_NAME,
    INT8_NAMES,
    ONNX,
    OPENVINO,
    OUTPUT_NAME,
    Artifact,
    Golden,
    ModelCard,
    Variant,
    load_artifact,
    write_card,
    writing_artifact,
)
from dhvt.data.batches import Batch, iterate_batches
from dhvt.data.preprocess import Preprocess, preprocess_image
from dhvt.data.sources import ImageSource, Subset
from dhvt.data.splits import reopen_training_data
from dhvt.engines.openvino import ChunkedModel
from dhvt.errors import DHVTError, ExportError
from dhvt.evaluation.agreement import FP32
from dhvt.hardware.cpus import available_cpus
from dhvt.model.checkpoint import Checkpoint, load_checkpoint
from dhvt.model.inference import InferenceModel, torch_predict
from export.golden import draw_images, draw_inputs, encode_base64
from export.parity import BATCH_SIZES, RUNTIMES, compare_outputs, describe
from export.store import store_artifact
from export.targets.int8 import (
    CALIBRATION_IMAGES,
    CHECK_IMAGES,
    compare_quantized,
    quantize,
    reason_to_drop,
)

OPSET_VERSION = 20
PARITY_IMAGES = 2 * max(BATCH_SIZES)
REAL_PARITY_IMAGES = 8 * PARITY_IMAGES
"""Enough to tell accuracy to a point or two; ``dhvt verify --data`` runs all of a test set."""


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
            raise ExportError("torch.onnx.export gave no program")
        program.save(path, external_data=False)
        graph = onnx.load(path)
        strip_metadata(graph)
        onnx.save(graph, path)
        onnx.checker.check_model(graph, full_check=True)
    except (torch.onnx.OnnxExporterError, onnx.checker.ValidationError, RuntimeError) as error:
        raise ExportError(f"the model cannot be exported: {error}") from error
    expected = sum(isinstance(module, torch.nn.LayerNorm) for module in model.modules())
    found = sum(node.op_type == "LayerNormalization" for node in graph.graph.node)
    if found < expected:
        raise ExportError(f"the graph has {found} LayerNormalization nodes, the model {expected}")


def strip_metadata(graph: onnx.ModelProto) -> None:
    """Removes what the exporter notes beside the graph: stack traces, with paths of the machine that exported it."""
    for entry in (graph, graph.graph, *graph.graph.node, *graph.graph.value_info, *graph.graph.initializer, *graph.functions):
        del entry.metadata_props[:]
    for entry in (*graph.graph.input, *graph.graph.output):
        del entry.metadata_props[:]
    for node in graph.graph.node:
        node.doc_string = ""


def sample(source: ImageSource, preprocess: Preprocess, count: int) -> Batch:
    """Up to ``count`` images of a data set, preprocessed, spread over its whole length."""
    chosen = np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(np.int64)
    batches = list(
        iterate_batches(Subset(source, chosen), preprocess, 256, on_error=lambda message: click.echo(message, err=True))
    )
    if not batches:
        raise ExportError(f"not one of the images can be read; the first is {source.locate(0)}")
    return Batch(*map(np.concatenate, zip(*batches, strict=True)))


@dataclass(frozen=True)
class Parts:
    """Real images for an export; where they are what the checkpoint was trained on, parted as they were then.

    Args:
        calibration: to calibrate on.
        check: to compare and measure on.
        held_out: whether ``check`` is known to be what the training held out.
    """

    calibration: ImageSource
    check: ImageSource
    held_out: bool


def open_parts(
    data: str | None, classes: Sequence[str], record: Mapping[str, Any] = MappingProxyType({}), seed: int = 0
) -> Parts | None:
    """None without ``data``; for the other arguments see :func:`dhvt.data.splits.reopen_training_data`."""
    return Parts(*reopen_training_data(data, classes, record, seed)) if data else None


def parity_images(parts: Parts | None, preprocess: Preprocess) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
    """Images ``(N, H, W, 3)`` to compare on, and their labels; without ``parts`` drawn ones, which have none."""
    if parts is None:
        return draw_inputs(PARITY_IMAGES, preprocess.size), None
    batch = sample(parts.check, preprocess, REAL_PARITY_IMAGES)
    return batch.images, batch.labels


def add_int8(folder: Path, card: ModelCard, parts: Parts) -> tuple[ModelCard, str | None]:
    """Quantizes the graph in ``folder``, and keeps that where it pays.

    Returns:
        The card with what was measured, or as it was and why.
    """
    calibration = sample(parts.calibration, card.preprocess, CALIBRATION_IMAGES).images
    quantize(folder / GRAPH_NAME, calibration, folder)
    check = sample(parts.check, card.preprocess, CHECK_IMAGES)
    fp32, int8 = (ChunkedModel(folder / name, threads=available_cpus()).predict for name in (GRAPH_NAME, INT8_NAMES[0]))
    result = compare_quantized(int8, fp32, check.images, check.labels, len(calibration))
    reason = reason_to_drop(result)
    if reason is not None:
        for name in INT8_NAMES:
            (folder / name).unlink()
        return card, reason
    golden = np.stack([preprocess_image(image, card.preprocess) for image in card.golden.encoded()])
    parity = result.to_parity() | {"held_out": parts.held_out, "golden_logits": int8(golden).tolist()}
    return card.with_variant(Variant(format=OPENVINO, precision="int8", files=INT8_NAMES, parity=parity)), None


def export_onnx(
    checkpoint: Checkpoint,
    out: Path,
    data: str | None = None,
    opset_version: int = OPSET_VERSION,
    int8: bool = False,
) -> Artifact:
    """Writes an artifact, after its outputs were compared with PyTorch's.

    Args:
        checkpoint: a trained model.
        out: the folder to write or, atomically, to replace.
        data: labelled images to compare and to measure accuracy on, as for ``dhvt train``; drawn ones by default.
        opset_version: of ONNX, at least 17 so that LayerNorm is one node.
        int8: quantize too, for processors that gain from it; needs ``data``, with labels.

    Raises:
        ExportError: the model cannot be exported.
        ParityError: ONNX Runtime or OpenVINO disagrees with PyTorch.
        ArtifactError: ``out`` cannot be written.
    """
    parts = open_parts(data, checkpoint.classes, checkpoint.data, checkpoint.recipe.get("seed", 0))
    if int8 and parts is None:
        raise ExportError("int8 needs data: images to calibrate with, and to prove that accuracy is kept")
    preprocess = checkpoint.build_preprocess()
    model = InferenceModel(checkpoint.build_model(), preprocess).eval()
    reference = torch_predict(model)
    images, labels = parity_images(parts, preprocess)
    golden_images = draw_images()
    golden = Golden(
        images=encode_base64(golden_images),
        logits=reference(np.stack([preprocess_image(image, preprocess) for image in golden_images])).tolist(),
    )
    with writing_artifact(out) as folder:
        export_graph(model, preprocess, folder / GRAPH_NAME, opset_version)
        comparisons = [
            compare_outputs(name, reference, load(folder / GRAPH_NAME), images, FP32, labels=labels)
            for name, load in RUNTIMES.items()
        ]
        parity = {
            "images": "real" if parts else "drawn",
            "tolerance": asdict(FP32),
            "comparisons": [comparison.to_dict() for comparison in comparisons],
        }
        tools = ("torch", "onnx", "onnxruntime", "openvino", "numpy", "pillow")
        card = ModelCard(
            name=checkpoint.name,
            classes=checkpoint.classes,
            preprocess=preprocess,
            golden=golden,
            variants=(Variant(format=ONNX, precision="fp32", files=(GRAPH_NAME,), parity=parity),),
            temperature=checkpoint.temperature,
            metrics=checkpoint.metrics,
            recipe=checkpoint.recipe,
            provenance=checkpoint.provenance,
            versions={name: version(name) for name in tools} | {"onnx_opset": str(opset_version)},
        )
        if int8 and parts:
            card, reason = add_int8(folder, card, parts)
            if reason is not None:
                click.echo(f"left out: {reason}", err=True)
        write_card(folder, card)
    return load_artifact(out)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write. Default: artifact/ beside the checkpoint.")
@click.option("--data", help="Real images to compare on and measure accuracy, laid out as for dhvt train. Default: drawn ones.")
@click.option(
    "--resize-mode",
    type=click.Choice(["crop", "squash", "pad"]),
    help="How images of another shape become the input's. Default: as in training.",
)
@click.option("--int8", is_flag=True, help="Add a graph in int8, where it keeps the accuracy on --data and is faster here.")
@click.option("--opset-version", default=OPSET_VERSION, show_default=True, type=click.IntRange(min=17))
@click.option("--tag", help="Also put it into BentoML's model store, as dhvt or dhvt:v2; DHVT_MODEL takes the tag.")
def main(
    checkpoint: Path,
    out: Path | None,
    data: str | None,
    resize_mode: str | None,
    int8: bool,
    opset_version: int,
    tag: str | None,
) -> None:
    """Export CHECKPOINT to a model folder that `DHVT_MODEL=… bentoml serve` takes.

    The graph is compared with PyTorch in ONNX Runtime and OpenVINO, at several batch sizes, before anything is
    written; one that disagrees is not written. An artifact already there is replaced in one step.
    """
    try:
        loaded = load_checkpoint(checkpoint)
        if resize_mode is not None:
            loaded.preprocess["resize_mode"] = resize_mode
        artifact = export_onnx(loaded, out or checkpoint.parent / "artifact", data, opset_version, int8)
        stored = store_artifact(artifact, tag) if tag else None
    except DHVTError as error:
        raise click.ClickException(str(error)) from error
    for variant in artifact.card.variants:
        parity = variant.parity
        for row in parity["comparisons"] if variant.precision == "fp32" else ():
            click.echo(f"{row['runtime']}: {describe(row, parity['images'] + ' images')}")
        for row in parity["comparisons"] if variant.precision == "int8" else ():
            click.echo(
                f"int8: top-1 {row['top1']:.2f} %, fp32 {row['top1_reference']:.2f} %, the same for "
                f"{row['top1_agreement']:.1%} of {row['images']} images "
                f"{'held out in training' if parity['held_out'] else 'of --data'}; {parity['speedup']:.2f} times as fast"
            )
    click.echo(f"wrote {artifact.path}; serve it with DHVT_MODEL={artifact.path} bentoml serve")
    if stored:
        click.echo(f"stored {stored}; serve it with DHVT_MODEL={stored} bentoml serve")


if __name__ == "__main__":
    main()
