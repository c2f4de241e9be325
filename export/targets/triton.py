"""The layout ``triton``: models for NVIDIA Triton's model repository, served by its ONNX Runtime and TensorRT backends."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from dhvt.artifact import ENGINE_NAME, GRAPH_NAME, INPUT_NAME, OUTPUT_NAME, TENSORRT, ModelCard, Variant, writing_artifact
from dhvt.errors import ArtifactError
from export.settings import TritonSettings
from export.targets.registry import Layout, LayoutJob
from export.triton_readme import write_readme

FOLDER = "triton"
CONFIG_NAME = "config.pbtxt"
LABELS_NAME = "labels.txt"
ENGINE_SUFFIX = "-tensorrt"
_DIGEST, _TENSORRT = 'parameters { key: "digest"', 'backend: "tensorrt"'
"""In the configurations of our models, and in those of engines."""


@dataclass(frozen=True, kw_only=True)
class ServedFile:
    """A model as Triton serves it.

    Args:
        name: of the model, and of its folder.
        source: file in the artifact.
        backend: Triton's name of the runtime.
        file_name: what the backend opens, in the folder of the version.
        kind: what instances run on.
        max_batch_size: of one call.
        preferred: batch sizes that are not made to wait for more requests, rising.
    """

    name: str
    source: str
    backend: str
    file_name: str
    kind: str
    max_batch_size: int
    preferred: list[int]


def write_triton(job: LayoutJob, settings: TritonSettings) -> None:
    """Writes ``triton/NAME/``, and ``triton/NAME-tensorrt/`` where the artifact has an engine that Triton can run.

    Raises:
        ArtifactError: a folder of something else is in the way, or it cannot be written.
    """
    assert job.artifact is not None
    repository = job.parent / FOLDER
    served = [_describe_graph(job.card, settings)]
    engine = job.artifact.find_variant(format=TENSORRT)
    reason = None if engine is None else reason_against(engine)
    if engine is not None and reason is None:
        served.append(_describe_engine(job.card, engine))
    elif reason is not None:
        job.log(f"left out: the engine, {reason}", err=True)
    for model in served:
        with writing_artifact(
            repository / model.name, names_in_folder, "model of Triton that dhvt wrote", job.parent
        ) as folder:
            _write_model(job, model, settings, folder)
    if len(served) == 1:
        _remove_engine(job, repository / f"{job.card.name}{ENGINE_SUFFIX}")
    for model in served:
        job.log(f"wrote {repository / model.name}; serve it with tritonserver --model-repository={repository}")


def names_in_folder(folder: Path) -> set[str] | None:
    """What an earlier export wrote; None where it is somebody else's model, or none."""
    return {"1", CONFIG_NAME, LABELS_NAME, "README.md"} if _DIGEST in _read_config(folder) else None


def _read_config(folder: Path) -> str:
    try:
        return (folder / CONFIG_NAME).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _write_model(job: LayoutJob, model: ServedFile, settings: TritonSettings, folder: Path) -> None:
    assert job.artifact is not None
    (folder / "1").mkdir()
    shutil.copyfile(job.artifact.path / model.source, folder / "1" / model.file_name)
    (folder / LABELS_NAME).write_text("".join(f"{_one_line(name)}\n" for name in job.card.classes), encoding="utf-8")
    (folder / CONFIG_NAME).write_text(describe_config(job.card, model, settings), encoding="utf-8")
    (folder / "README.md").write_text(write_readme(job.card, model.name), encoding="utf-8")


def _remove_engine(job: LayoutJob, folder: Path) -> None:
    """Removes the engine of an earlier export, which is of another graph."""
    config = _read_config(folder)
    if _DIGEST in config and _TENSORRT in config:
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise ArtifactError(f"cannot remove {folder}, which has the engine of an earlier export: {error}") from error
        job.log(f"removed {folder}, the engine of an earlier export")


def _describe_graph(card: ModelCard, settings: TritonSettings) -> ServedFile:
    largest = settings.triton_max_batch_size
    return ServedFile(
        name=card.name,
        source=GRAPH_NAME,
        backend="onnxruntime",
        file_name="model.onnx",
        kind=f"KIND_{settings.instance_kind.upper()}",
        max_batch_size=largest,
        preferred=sorted({max(largest // 4, 1), max(largest // 2, 1), largest}),
    )


def _describe_engine(card: ModelCard, engine: Variant) -> ServedFile:
    profile = engine.hardware["profile"]
    return ServedFile(
        name=f"{card.name}{ENGINE_SUFFIX}",
        source=ENGINE_NAME,
        backend="tensorrt",
        file_name="model.plan",
        kind="KIND_GPU",
        max_batch_size=profile["max_batch_size"],
        preferred=sorted({profile["opt_batch_size"], profile["max_batch_size"]}),
    )


def reason_against(engine: Variant) -> str | None:
    """Why Triton cannot run an engine, or None."""
    if engine.hardware["flavour"] != "tensorrt":
        return f"which is of {engine.hardware['flavour']}; Triton runs those of tensorrt"
    smallest = engine.hardware["profile"]["min_batch_size"]
    if smallest > 1:
        return f"whose smallest batch is {smallest}; Triton also sends batches of 1"
    return None


def describe_config(card: ModelCard, model: ServedFile, settings: TritonSettings) -> str:
    """The text of ``config.pbtxt``. Triton adds the batch, the graph's first dimension, to the dimensions here."""
    height, width = card.preprocess.size
    shape = f"{height}, {width}, 3"
    warm_ups = "\n".join(_describe_warm_up(size, shape) for size in sorted({1, model.max_batch_size}))
    return f"""\
name: {_quote(model.name)}
backend: {_quote(model.backend)}
default_model_filename: {_quote(model.file_name)}
max_batch_size: {model.max_batch_size}
input [ {{ name: {_quote(INPUT_NAME)} data_type: TYPE_UINT8 dims: [ {shape} ] }} ]
output [
  {{ name: {_quote(OUTPUT_NAME)} data_type: TYPE_FP32 dims: [ {len(card.classes)} ] label_filename: {_quote(LABELS_NAME)} }}
]
instance_group [ {{ kind: {model.kind} count: {settings.instances} }} ]
dynamic_batching {{
  preferred_batch_size: [ {", ".join(map(str, model.preferred))} ]
  max_queue_delay_microseconds: {round(1000 * settings.max_queue_delay_ms)}
}}
{warm_ups}
parameters {{ key: "version" value {{ string_value: {_quote(card.version)} }} }}
parameters {{ key: "digest" value {{ string_value: {_quote(card.digest)} }} }}
parameters {{ key: "temperature" value {{ string_value: "{card.temperature!r}" }} }}
"""


def _describe_warm_up(size: int, shape: str) -> str:
    tensor = f"data_type: TYPE_UINT8 dims: [ {shape} ] zero_data: true"
    value = f"inputs {{ key: {_quote(INPUT_NAME)} value {{ {tensor} }} }}"
    return f'model_warmup [ {{ name: "batch of {size}" batch_size: {size} {value} }} ]'


def _quote(text: str) -> str:
    return json.dumps(text)


def _one_line(name: str) -> str:
    """A class name as one line of the file of labels."""
    return " ".join(name.splitlines())


LAYOUT = Layout(
    help="triton/NAME beside the model folder: a model of NVIDIA Triton's, with dynamic batching",
    settings=TritonSettings,
    packages=(),
    install="",
    needs="artifact",
    write=write_triton,
)
