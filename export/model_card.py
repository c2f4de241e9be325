"""The model card: ``README.md`` of a folder for the Hugging Face Hub, with the metrics in its header."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from dhvt.artifact import ModelCard
from dhvt.data.preprocess import Preprocess
from dhvt.data.record import is_seen
from dhvt.model.config import VARIANTS
from dhvt.naming import fit_name

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

METRICS = {
    "top1": ("accuracy", "Top-1 accuracy"),
    "top5": ("accuracy", "Top-5 accuracy"),
    "balanced_accuracy": ("balanced_accuracy", "Balanced accuracy"),
    "macro_f1": ("f1", "Macro F1"),
}
"""The Hub's type and a title, by the name in the card's metrics, where they are percentages."""

SPLITS = {"val": "validation", "test": "test"}
"""The split in the Hub's words, by that of the card's metrics."""

_TEXT = """
# {name}

Sorts images into {classes} classes. Architecture `{architecture}`, {parameters:,} parameters{version}. Trained and exported
with DHVT Serve; timm has loaded this folder and given the checkpoint's logits.

## Use

```python
{use}
```

## Classes

{class_names}

## Preprocessing

{preprocessing}

## Results

{results}

## Training

{training}

## Licence

None is stated here. Before you publish the model, add `license: …` to this file's header, and say here where the images came
from.
"""

CHOSEN = (
    "The validation images also helped to choose these weights, so that the figures on them are a little too good; those on "
    "a test split are not."
)

_USE = """\
import timm
import torch
from PIL import Image
{register}
model = timm.create_model("{source}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
with torch.inference_mode():
    logits = model(transform(Image.open("image.jpg").convert("RGB")).unsqueeze(0))
scores = (logits / {temperature:.4g}).softmax(-1)  # the temperature was fitted on held-out images
print(model.pretrained_cfg["label_names"][scores.argmax()])"""


def write_model_card(card: ModelCard, parameters: int, *, registered: bool, repository: str | None = None) -> str:
    """The text of ``README.md``.

    Args:
        parameters: of the network.
        registered: whether timm knows the architecture only after it was registered by this package.
        repository: where it will be, ``user/name``; None for a local folder.
    """
    from huggingface_hub import ModelCardData

    results = find_results(card)
    header = ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", *(["dhvt"] if card.architecture in VARIANTS else [])],
        model_name=card.name if results else None,  # the Hub wants both or neither
        eval_results=results or None,
    )
    text = _TEXT.format(
        name=card.name,
        classes=len(card.classes),
        architecture=card.architecture,
        parameters=parameters,
        version=f", version {card.version}" if card.version else "",
        use=_USE.format(
            register="import dhvt.model.dhvt  # registers the architecture\n" if registered else "",
            source=f"hf-hub:{repository}" if repository else "local-dir:.",
            temperature=card.temperature,
        ),
        class_names=", ".join(f"`{name}`" for name in card.classes),
        preprocessing=_describe_preprocess(card.preprocess),
        results=_describe_results(results, card),
        training=_describe_training(card),
    )
    return f"---\n{header.to_yaml()}\n---\n{text}"


def find_results(card: ModelCard) -> list[EvalResult]:
    """The card's measurements as the Hub's metadata has them: accuracy between 0 and 1."""
    from huggingface_hub import EvalResult

    found = []
    for split, title in SPLITS.items():
        measured = _unseen(card.metrics.get(split, {}))
        if split == "val":
            measured = {key.removeprefix("val_"): value for key, value in card.metrics.items()} | dict(measured)
        for key, (kind, name) in METRICS.items():
            if key not in measured or (key == "top5" and len(card.classes) <= 5):  # which is 100 % of any model
                continue
            dataset = _name_dataset(card, title)
            found.append(
                EvalResult(
                    task_type="image-classification",
                    dataset_type=fit_name(dataset),
                    dataset_name=dataset,
                    dataset_split=title,
                    metric_type=kind,
                    metric_name=name,
                    metric_value=round(measured[key] / 100, 6),
                )
            )
    return found


def _unseen(measured: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was measured; nothing where the model has seen the images."""
    return {} if is_seen(measured) else measured


def _name_dataset(card: ModelCard, kind: str) -> str:
    """The last two names of where the images came from: a path of the machine that trained tells readers nothing."""
    source = str(card.data.get(kind, {}).get("source", ""))
    parts = [part for part in PurePath(source).parts[-2:] if part not in ("/", "..", ".")]
    return "/".join(parts) or card.name


def _describe_preprocess(preprocess: Preprocess) -> str:
    height, width = preprocess.size
    crop = f", crop_pct {preprocess.crop_pct:g}" if preprocess.resize_mode == "crop" else ""
    return (
        f"RGB, {width}×{height} pixels (`{preprocess.resize_mode}`, {preprocess.interpolation}{crop}), scaled to 0–1, mean "
        f"{_join(preprocess.mean)}, standard deviation {_join(preprocess.std)}.{_describe_white(preprocess)} `config.json` has "
        "the same, without white, for timm's transforms, which round sizes and crops to whole pixels, so that images of other "
        "sizes come out slightly different."
    )


def _describe_white(preprocess: Preprocess) -> str:
    if preprocess.integer_white is None or preprocess.float_white is None:
        return ""
    return f" In grey images of 16 bits {preprocess.integer_white} is white, in those of floats {preprocess.float_white:g}."


def _join(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _describe_results(results: list[EvalResult], card: ModelCard) -> str:
    if not results:
        return "None are recorded."
    rows = [
        f"| {row.dataset_name} | {row.dataset_split} | {row.metric_name} | {100 * row.metric_value:.2f} % |" for row in results
    ]
    rows += [
        f"| {_name_dataset(card, 'test')} | test | right label in the prediction set at coverage {entry['coverage']:g} "
        f"({entry['mean_size']:.2f} labels on average) | {100 * entry['measured']:.2f} % |"
        for entry in _unseen(card.metrics.get("test", {})).get("coverage", [])
    ]
    chosen = ["", CHOSEN] if card.metrics.get("val_chose_weights") else []
    return "\n".join(["| images | split | metric | value |", "|---|---|---|---|", *rows, *chosen])


def _describe_training(card: ModelCard) -> str:
    """The recipe, and how many images; without commands, which have paths of the machine that trained."""
    counts = [
        f"{card.data[kind]['images']:,} {kind} images ({_name_dataset(card, kind)})"
        for kind in ("training", "validation", "calibration", "test")
        if "images" in card.data.get(kind, {})
    ]
    lines = [f"{', '.join(counts)}.\n"] if counts else []
    if not card.recipe:
        return "\n".join([*lines, "How it was trained is not recorded."])
    values: list[tuple[str, Any]] = [(key, value) for key, value in card.recipe.items() if value not in ("", None)]
    return "\n".join([*lines, "| recipe | |", "|---|---|", *(f"| {key} | {value} |" for key, value in values)])
