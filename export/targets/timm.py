"""The layout ``timm``: weights and configuration as timm's models on the Hugging Face Hub have them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dhvt.artifact import ModelCard, writing_artifact
from dhvt.configuration import from_dict
from dhvt.data.preprocess import Preprocess
from dhvt.evaluation.agreement import FP32
from dhvt.files import read_object
from export.settings import TimmSettings
from export.targets.registry import Layout, LayoutJob

if TYPE_CHECKING:
    from dhvt.model.checkpoint import Checkpoint

FOLDER, MODEL_CARD = "timm", "README.md"
NAMES = ("config.json", "model.safetensors", MODEL_CARD)
CROP_MODES = {"crop": "center", "squash": "squash", "pad": "border"}
"""timm's names of the resize modes."""

OF_PUBLISHED_WEIGHTS = (
    *("tag", "license", "origin_url", "paper_ids", "paper_name", "notes", "label_names", "label_descriptions"),
    *("test_input_size", "test_crop_pct", "min_input_size", "pool_size"),
)
"""What timm knows of the weights that it publishes for an architecture; these are others."""


def write_timm(job: LayoutJob, settings: TimmSettings) -> None:
    """Writes ``timm/`` after timm has loaded it again and given the checkpoint's logits; uploads it if asked.

    Raises:
        ConfigError: timm cannot build this model.
        ExportError: it cannot be uploaded.
        ParityError: timm gives other logits.
    """
    from dhvt.model.small_stem import NAME as SMALL_STEM
    from export.model_card import write_model_card

    assert job.checkpoint is not None
    path = job.parent / FOLDER
    with writing_artifact(path, names_in_folder, "folder of timm") as folder:
        model = save_model(job.checkpoint, job.card, folder)
        require_equal_logits(job, folder)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        registered = type(model).__module__.startswith("dhvt.") or model.pretrained_cfg["architecture"] == SMALL_STEM
        text = write_model_card(job.card, parameters, registered=registered, repository=settings.push)
        if has_licence(path / MODEL_CARD):
            shutil.copyfile(path / MODEL_CARD, folder / MODEL_CARD)
            job.log(f"{path / MODEL_CARD}, which states a licence, is kept as it is; remove it to have it written again")
        else:
            (folder / MODEL_CARD).write_text(text, encoding="utf-8")
    job.log(f'wrote {path}; load it with timm.create_model("local-dir:{path}", pretrained=True) after import dhvt.model.dhvt')
    if settings.push:
        from export.hub import push_folder

        push_folder(path, NAMES, settings.push, public=settings.public, log=job.log)


def names_in_folder(folder: Path) -> set[str] | None:
    """What an earlier export wrote; None where it is no folder of timm."""
    values = read_object(folder / "config.json")
    return {*NAMES} if values is not None and "architecture" in values else None


def has_licence(path: Path) -> bool:
    """Whether somebody has stated a licence in the header of a model card, as its text asks."""
    try:
        return any(line.startswith("license:") for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    except OSError:
        return False


def save_model(checkpoint: Checkpoint, card: ModelCard, folder: Path) -> Any:
    """Writes ``config.json`` and ``model.safetensors`` with timm's own function.

    Returns:
        The model, as timm built it.

    Raises:
        ConfigError: timm cannot build it.
    """
    import timm
    from timm.models import save_for_hf

    from dhvt.model.factory import describe_for_timm

    name, arguments = describe_for_timm(checkpoint.name, checkpoint.config)
    model: Any = timm.create_model(name, **arguments)
    model.load_state_dict(checkpoint.weights if checkpoint.ema is None else checkpoint.ema)
    kept = {key: value for key, value in dict(model.pretrained_cfg).items() if key not in OF_PUBLISHED_WEIGHTS}
    model.pretrained_cfg = kept | describe_preprocessing(card.preprocess)
    save_for_hf(model, str(folder), model_config={"label_names": card.classes}, model_args=arguments, safe_serialization=True)
    return model


def describe_preprocessing(preprocess: Preprocess) -> dict[str, Any]:
    """Preprocessing in timm's words."""
    cropped = preprocess.resize_mode == "crop"  # timm crops after squashing and padding too
    return {
        "input_size": (3, *preprocess.size),
        "mean": preprocess.mean,
        "std": preprocess.std,
        "interpolation": preprocess.interpolation,
        "crop_pct": preprocess.crop_pct if cropped else 1.0,
        "crop_mode": CROP_MODES[preprocess.resize_mode],
    }


def require_equal_logits(job: LayoutJob, folder: Path) -> None:
    """Loads the folder as its users will, and compares its logits with the checkpoint's, each with its own normalisation.

    Raises:
        ParityError: they differ.
    """
    import timm

    from dhvt.model.inference import InferenceModel, torch_predict
    from export.images import comparison_images
    from export.parity import compare_outputs, describe

    assert job.checkpoint is not None
    preprocess = job.card.preprocess
    loaded: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    own = {key: loaded.pretrained_cfg[key] for key in ("mean", "std")}
    of_timm = from_dict(Preprocess, preprocess.to_dict() | own)
    reference = torch_predict(InferenceModel(job.checkpoint.build_model(), preprocess).eval())
    candidate = torch_predict(InferenceModel(loaded, of_timm).eval())
    images, labels = comparison_images(job.images, preprocess)
    compared = compare_outputs("timm", reference, candidate, images, FP32, labels=labels)
    job.log(f"timm: {describe(compared.to_dict(), 'drawn images' if labels is None else 'real images')}")


LAYOUT = Layout(
    help="timm/ beside the model folder: config.json, model.safetensors and a model card, as on the Hugging Face Hub",
    settings=TimmSettings,
    packages=("torch", "timm", "safetensors", "huggingface_hub"),
    install="pip install 'dhvt-serve[train]'",
    needs="checkpoint",
    write=write_timm,
)
