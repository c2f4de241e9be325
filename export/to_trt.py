"""Checkpoint to TensorRT engine: ``python export/to_trt.py runs/mine/ckpt.pt``."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a script: the folder above holds the packages
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from dhvt.artifact import (
    ENGINE_NAME,
    GRAPH_NAME,
    INPUT_NAME,
    OUTPUT_NAME,
    TENSORRT,
    Artifact,
    Variant,
    load_artifact,
    write_card,
    writing_artifact,
)
from dhvt.data.batches import Predict
from dhvt.engines.chunks import run_in_chunks
from dhvt.errors import DHVTError, ExportError
from dhvt.evaluation.agreement import TOLERANCES, Comparison
from dhvt.hardware.gpus import RTX_DEFAULT_CAPABILITIES, read_driver
from dhvt.model.checkpoint import Checkpoint, load_checkpoint
from export.golden import draw_inputs
from export.parity import BATCH_SIZES, compare_outputs, describe, onnxruntime_predict
from export.precision import DTYPES
from export.source import Original, original_of_artifact, original_of_checkpoint
from export.to_onnx import export_onnx, parity_images

FLAVOURS = ("tensorrt", "tensorrt_rtx")
ENGINE_RUNTIME = "tensorrt"
"""What a comparison of the engine itself is recorded as; one of the graph that it was built from has another runtime."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Batch sizes that an engine takes, and the one that it is fastest at."""

    min_batch_size: int = 1
    opt_batch_size: int = 16
    max_batch_size: int = 64

    def __post_init__(self) -> None:
        if not 1 <= self.min_batch_size <= self.opt_batch_size <= self.max_batch_size:
            sizes = f"{self.min_batch_size}, {self.opt_batch_size}, {self.max_batch_size}"
            raise ExportError(f"batch sizes are {sizes}; they must be at least 1 and rise from min over opt to max")


def pick_flavour(name: str = "auto") -> str:
    """``tensorrt`` where it is installed and has a GPU, else ``tensorrt_rtx`` where that is installed.

    Raises:
        ExportError: neither can build an engine here.
    """
    if name not in ("auto", *FLAVOURS):
        raise ExportError(f"no TensorRT flavour {name!r}; choose auto or one of {', '.join(FLAVOURS)}")
    gpu = torch.cuda.is_available()
    if name in ("auto", "tensorrt") and _is_installed("tensorrt") and gpu:
        return "tensorrt"
    if name in ("auto", "tensorrt_rtx") and _is_installed("tensorrt_rtx"):
        return "tensorrt_rtx"
    why = "there is no GPU here, and tensorrt needs one to build" if not gpu else f"{name} is not installed"
    raise ExportError(
        f"no engine can be built: {why}. With an NVIDIA GPU: pip install tensorrt. "
        "For GeForce and RTX GPUs, also on a machine without one: pip install tensorrt-rtx"
    )


def _is_installed(package: str) -> bool:
    spec = find_spec(package)
    return spec is not None and spec.origin is not None  # tensorrt-stubs leaves a folder without code


def build_engine(
    graph: Path,
    size: tuple[int, int],
    profile: Profile,
    *,
    flavour: str = "auto",
    compute_capabilities: Sequence[tuple[int, int]] = (),
    workspace_gib: float | None = None,
    timing_cache: Path | None = None,
    progress: bool = True,
) -> bytes:
    """Compiles an ONNX graph; each layer's precision is the graph's (a strongly typed network).

    Args:
        graph: ``images`` uint8 ``(batch, H, W, 3)`` to ``logits``.
        size: ``(H, W)``.
        profile: batch sizes.
        flavour: see :func:`pick_flavour`.
        compute_capabilities: of the GPUs to build for, such as ``(8, 9)``; ``tensorrt_rtx`` alone, by default all that it
            knows. ``tensorrt`` builds for the GPU that is here.
        workspace_gib: memory that a layer may use for its intermediate results, by default the GPU's.
        timing_cache: a file that makes a second build faster, read and written; ``tensorrt`` alone.
        progress: show bars.

    Returns:
        The serialized engine.

    Raises:
        ExportError: TensorRT cannot take the graph (with its parser's words), or the options do not fit the flavour.
    """
    flavour = pick_flavour(flavour)
    if flavour == "tensorrt" and compute_capabilities:
        raise ExportError("tensorrt builds for the GPU that is here; compute capabilities are tensorrt_rtx's")
    if flavour == "tensorrt_rtx" and timing_cache is not None:
        raise ExportError("tensorrt_rtx has no timing cache")
    trt = _import_flavour(flavour)
    # After the environment is set, because Polygraphy reads it once, when it is imported.
    from polygraphy.backend import trt as polygraphy
    from polygraphy.exception import PolygraphyException
    from polygraphy.logger import G_LOGGER

    height, width = size
    shapes = {kind: (getattr(profile, f"{kind}_batch_size"), height, width, 3) for kind in ("min", "opt", "max")}
    options: dict[str, Any] = {"profiles": [polygraphy.Profile().add(INPUT_NAME, **shapes)]}
    if workspace_gib is not None:
        options["memory_pool_limits"] = {trt.MemoryPoolType.WORKSPACE: int(workspace_gib * 2**30)}
    if progress and hasattr(trt, "IProgressMonitor"):
        options["progress_monitor"] = _progress_monitor(trt)

    def create_config() -> Any:
        if flavour == "tensorrt_rtx":
            from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

            return CreateConfigRTX(compute_capabilities=list(compute_capabilities) or None, **options)
        cache = str(timing_cache) if timing_cache is not None and timing_cache.exists() else None
        return polygraphy.CreateConfig(load_timing_cache=cache, **options)

    def configure(builder: Any, network: Any) -> Any:
        config = create_config()(builder, network)
        config.clear_flag(trt.BuilderFlag.TF32)  # or fp32 would keep 10 bits of mantissa
        return config

    try:
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
            builder, network = polygraphy.create_network(strongly_typed=True)
            parser = trt.OnnxParser(network, polygraphy.get_trt_logger())
            if not parser.parse_from_file(str(graph)):
                words = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
                raise ExportError(f"TensorRT cannot parse {graph.name}: {words}")
            save = str(timing_cache) if timing_cache is not None else None
            engine = polygraphy.engine_bytes_from_network((builder, network, parser), config=configure, save_timing_cache=save)
            return bytes(engine)
    except PolygraphyException as error:
        raise ExportError(f"TensorRT cannot build an engine of {graph.name}: {error}") from error


def _import_flavour(flavour: str) -> Any:
    use_rtx = "1" if flavour == "tensorrt_rtx" else "0"
    loaded = sys.modules.get("polygraphy.config")
    if loaded is not None and bool(loaded.USE_TENSORRT_RTX) != (use_rtx == "1"):
        raise ExportError("one process builds with one flavour of TensorRT; start another for the other")
    os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = use_rtx
    return import_module(flavour)


def _progress_monitor(trt: Any) -> Any:
    """TensorRT's phases as progress bars, one below the other."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base depends on the flavour
        def __init__(self) -> None:
            super().__init__()
            self.bars: dict[str, Any] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.bars[phase_name] = tqdm(total=num_steps, desc=phase_name, leave=parent_phase is None)

        def phase_finish(self, phase_name: str) -> None:
            self.bars.pop(phase_name).close()

        def step_complete(self, phase_name: str, step: int) -> bool:
            bar = self.bars[phase_name]
            bar.update(step + 1 - bar.n)
            return True  # go on

    return Monitor()


def export_precision(
    original: Original, precision: str, path: Path, images: NDArray[np.uint8], labels: NDArray[np.int64] | None = None
) -> Comparison:
    """Writes the graph in a precision, and compares it with the original on the CPU.

    Raises:
        ExportError: no such precision, or it cannot be exported.
        ParityError: it disagrees by more than the precision explains.
    """
    runtime, candidate = original.write_graph(precision, path)
    return compare_outputs(
        f"{runtime} in {precision}", original.reference, candidate, images, TOLERANCES[precision], labels=labels
    )


@contextmanager
def running_engine(engine: bytes, profile: Profile) -> Iterator[Predict]:
    """The engine on this machine's GPU, for the length of the block.

    Raises:
        ExportError: it cannot be loaded, or fails.
    """
    from polygraphy.backend.trt import EngineFromBytes, TrtRunner
    from polygraphy.exception import PolygraphyException

    try:
        with TrtRunner(EngineFromBytes(engine)) as runner:

            def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
                logits: NDArray[np.float32] = runner.infer({INPUT_NAME: images})[OUTPUT_NAME]
                return logits

            yield lambda images: run_in_chunks(run, images, profile.min_batch_size, profile.max_batch_size)
    except PolygraphyException as error:
        raise ExportError(
            f"the engine was built, but does not run on this GPU: {error}; if it is for another, name that with "
            "--compute-capability"
        ) from error


def compare_engine(
    reference: Predict,
    engine: bytes,
    precision: str,
    profile: Profile,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64] | None = None,
) -> Comparison:
    """Compares the engine itself, on this machine's GPU, with float32 on the CPU; at its largest batch too.

    Raises:
        ExportError: it does not run here.
        ParityError: it disagrees by more than the precision explains.
    """
    with running_engine(engine, profile) as predict:
        return compare_outputs(
            ENGINE_RUNTIME,
            reference,
            predict,
            images,
            TOLERANCES[precision],
            labels=labels,
            batch_sizes=(*BATCH_SIZES, profile.max_batch_size),
        )


def export_trt(
    source: Checkpoint | Artifact, out: Path, precision: str, profile: Profile, data: str | None = None, **options: Any
) -> Artifact:
    """Adds an engine to an artifact.

    Args:
        source: the checkpoint that it is of, from which it is made where it is not there yet; or the artifact at ``out``.
        options: of :func:`build_engine`.

    Raises:
        ExportError, ParityError, ArtifactError: see there; the artifact is then as it was.

    The variant's ``parity`` has a comparison of the graph in its precision, and one of the engine itself where there was a
    GPU to run it on.
    """
    flavour = pick_flavour(options.pop("flavour", "auto"))
    if isinstance(source, Artifact):
        artifact, original = source, original_of_artifact(source)
    else:
        artifact = load_artifact(out) if out.exists() else export_onnx(source, out, data)
        original = original_of_checkpoint(source)
        _require_same_model(artifact, original)
    preprocess = artifact.card.preprocess
    images, labels = parity_images(original.open_parts(data), preprocess)
    with tempfile.TemporaryDirectory() as temporary:
        graph = Path(temporary) / f"model.{precision}.onnx"
        comparison = export_precision(original, precision, graph, images, labels)
        engine = build_engine(graph, preprocess.size, profile, flavour=flavour, **options)
    here = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    capabilities = [here] if flavour == "tensorrt" and here else list(options.get("compute_capabilities") or ())
    runs_here = here is not None and (
        here in capabilities if capabilities else f"{here[0]}.{here[1]}" in RTX_DEFAULT_CAPABILITIES
    )
    measured = compare_engine(original.reference, engine, precision, profile, images, labels) if runs_here else None
    driver = read_driver()
    hardware = {
        "flavour": flavour,
        "version": _import_flavour(flavour).__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "cuda": torch.version.cuda if here else None,
        "driver": driver.version if driver else None,
        "gpu": torch.cuda.get_device_name() if here else None,
        "compute_capabilities": [f"{major}.{minor}" for major, minor in capabilities],
        "profile": asdict(profile),
        "onnx_sha256": artifact.card.files[GRAPH_NAME],
    }
    parity = {
        "images": "drawn" if labels is None else "real",
        "tolerance": asdict(TOLERANCES[precision]),
        "comparisons": [compared.to_dict() for compared in (comparison, measured) if compared],
    }
    variant = Variant(format=TENSORRT, precision=precision, files=(ENGINE_NAME,), hardware=hardware, parity=parity)
    with writing_artifact(out) as folder:
        shutil.copytree(artifact.path, folder, dirs_exist_ok=True)
        (folder / ENGINE_NAME).write_bytes(engine)
        write_card(folder, artifact.card.with_variant(variant))
    return load_artifact(out)


def _require_same_model(artifact: Artifact, original: Original) -> None:
    """The artifact's graph and the checkpoint give the same logits."""
    images = draw_inputs(2, artifact.card.preprocess.size)
    expected = original.reference(images)
    got = onnxruntime_predict(artifact.graph_path)(images)
    if got.shape != expected.shape or not np.allclose(got, expected, atol=TOLERANCES["fp32"].atol):
        raise ExportError(f"{artifact.path} was exported from another checkpoint; export this one first, or give another --out")


def _parse_capability(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    if not (major.isdigit() and minor.isdigit()):
        raise ExportError(f"compute capability {text!r} is not of the form 8.9")
    return int(major), int(minor)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", type=click.Path(path_type=Path), metavar="CHECKPOINT|ARTIFACT")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Model folder to add the engine to. Default: artifact/ beside the checkpoint.",
)
@click.option("--data", help="Real images to compare on and measure accuracy, laid out as for dhvt train. Default: drawn ones.")
@click.option("--precision", type=click.Choice(list(DTYPES)), default="fp16", show_default=True)
@click.option("--min-batch-size", default=Profile.min_batch_size, show_default=True)
@click.option("--opt-batch-size", default=Profile.opt_batch_size, show_default=True, help="The batch size to be fastest at.")
@click.option("--max-batch-size", default=Profile.max_batch_size, show_default=True)
@click.option("--flavour", type=click.Choice(["auto", *FLAVOURS]), default="auto", show_default=True)
@click.option("--compute-capability", multiple=True, help="Of a GPU to build for, as 8.9; tensorrt_rtx alone; repeatable.")
@click.option("--workspace", type=float, help="GiB that a layer may use for intermediate results. Default: the GPU's.")
@click.option("--timing-cache", type=click.Path(path_type=Path), help="File that makes the next build faster; tensorrt alone.")
def main(
    source: Path,
    out: Path | None,
    data: str | None,
    precision: str,
    min_batch_size: int,
    opt_batch_size: int,
    max_batch_size: int,
    flavour: str,
    compute_capability: tuple[str, ...],
    workspace: float | None,
    timing_cache: Path | None,
) -> None:
    """Compile a model with TensorRT and add the engine to its model folder.

    From the checkpoint, or from the model folder alone, as on a server that has nothing else: then in fp16 or fp32.

    tensorrt builds for the GPU of this machine. tensorrt_rtx (GeForce and RTX GPUs) needs no GPU to build.
    The graph in the chosen precision is compared with float32 on the CPU before anything is built; the engine is then
    compared too, where there is a GPU to run it on.
    """
    try:
        loaded: Checkpoint | Artifact = load_artifact(source) if source.is_dir() else load_checkpoint(source)
        if isinstance(loaded, Artifact) and out is not None:
            raise ExportError(f"--out is for a checkpoint; the engine goes into {source}, which is a model folder")
        profile = Profile(min_batch_size=min_batch_size, opt_batch_size=opt_batch_size, max_batch_size=max_batch_size)
        artifact = export_trt(
            loaded,
            source if isinstance(loaded, Artifact) else out or source.parent / "artifact",
            precision,
            profile,
            data,
            flavour=flavour,
            compute_capabilities=[_parse_capability(text) for text in compute_capability],
            workspace_gib=workspace,
            timing_cache=timing_cache,
        )
    except DHVTError as error:
        raise click.ClickException(str(error)) from error
    variant = artifact.find_variant(format=TENSORRT, precision=precision)
    assert variant is not None
    click.echo(f"{variant.hardware['flavour']} {variant.hardware['version']}, {precision}")
    rows = {row["runtime"] == ENGINE_RUNTIME: row for row in variant.parity["comparisons"]}
    for what, row in (("before compilation", rows[False]), ("the engine on this GPU", rows.get(True))):
        if row is None:
            click.echo(f"{what}: not run, there is none that it is for; the server compares it before it serves")
        else:
            click.echo(f"{what}: {describe(row)}")
    click.echo(f"wrote {artifact.path / ENGINE_NAME}")


if __name__ == "__main__":
    main()
