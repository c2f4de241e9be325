"""The target ``explain``: the graph that gives the attention beside the logits, for models with head tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dhvt.artifact import EXPLAIN, EXPLAIN_NAME, GRAPH_NAME, INPUT_NAME, OUTPUT_NAME, ModelCard, Variant
from dhvt.errors import ParityError
from dhvt.evaluation.agreement import FP32
from export.targets.registry import Job, Target

if TYPE_CHECKING:
    from pathlib import Path

COMPARED_IMAGES = 64
LOGIT_ATOL, ATTENTION_ATOL = FP32.atol, 1e-4
"""Allowed errors: of logits as for the float32 graph, and of attention, of which a row sums to 1."""


@dataclass(frozen=True, kw_only=True)
class ExplainSettings:
    """It has none."""


def add_explain(job: Job, card: ModelCard, settings: ExplainSettings) -> ModelCard:
    """Writes ``model.explain.onnx`` after its outputs were compared with PyTorch's; omits it for a model without head tokens.

    Raises:
        ExportError: the graph is invalid.
        ParityError: it disagrees with PyTorch, or of a model folder alone with its logits.
    """
    from export.explain_graph import write_explain_graph

    path = job.folder / EXPLAIN_NAME
    if not write_explain_graph(job.folder / GRAPH_NAME, path, card.preprocess.size):
        job.log("left out: explain, since the model has no head tokens; its maps are made by masking", err=True)
        return card
    images = _compared_images(job, card)
    expected = job.source.attention(images)
    compared_with = GRAPH_NAME if expected is None else "pytorch"
    errors = compare_explained(path, images, expected or {OUTPUT_NAME: job.source.reference(images)})
    job.log(f"explain: largest error {max(errors.values()):.2g} of {', '.join(errors)} on {len(images)} images")
    parity = {
        "images": "drawn" if job.images is None else "real",
        "tolerance": {name: _allowed_error(name) for name in errors},
        "compared_with": compared_with,
        "comparisons": [{"runtime": "onnxruntime", "images": len(images), "max_abs_error": errors}],
    }
    return card.with_variant(Variant(format=EXPLAIN, precision="fp32", files=(EXPLAIN_NAME,), parity=parity))


def _compared_images(job: Job, card: ModelCard) -> NDArray[np.uint8]:
    from export.golden import draw_inputs
    from export.images import sample

    if job.images is None:
        return draw_inputs(COMPARED_IMAGES, card.preprocess.size)
    return sample(job.images.comparison, card.preprocess, COMPARED_IMAGES, job.images.on_error).images


def _allowed_error(output: str) -> float:
    return LOGIT_ATOL if output == OUTPUT_NAME else ATTENTION_ATOL


def compare_explained(graph: Path, images: NDArray[np.uint8], expected: dict[str, NDArray[np.float32]]) -> dict[str, float]:
    """The largest error of each output in ONNX Runtime, by its name.

    Raises:
        ParityError: one is larger than what is allowed.
    """
    import onnxruntime

    session: Any = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    got = session.run([*expected], {INPUT_NAME: images})
    errors = {}
    for (name, right), values in zip(expected.items(), got, strict=True):
        errors[name] = float(np.abs(values - right).max()) if values.shape == right.shape else float("inf")
        allowed = _allowed_error(name)
        if not errors[name] <= allowed:
            raise ParityError(f"explain: {name} differs by {errors[name]:.2g} of at most {allowed:.2g}; nothing was written")
    return errors


TARGET = Target(
    help="the graph with the attention of its layers beside the logits, for explanations; made with onnx",
    settings=ExplainSettings,
    packages=("onnx", "onnxruntime"),
    install="pip install 'dhvt-serve[cpu,export]', with a GPU 'dhvt-serve[gpu,export]'",
    add=add_explain,
)
