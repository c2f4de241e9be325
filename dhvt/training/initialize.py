"""The model that a run starts with: freshly initialised, or with the weights of ``--init`` or ``--pretrained``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from dhvt.errors import CheckpointError
from dhvt.model.checkpoint import FORMAT, State, from_authors, read_file, read_safetensors
from dhvt.model.factory import build
from dhvt.model.pretrained import build_pretrained
from dhvt.training.distributed import synchronize_batchnorm
from dhvt.training.progress import log
from dhvt.training.run import Run
from dhvt.training.seeds import seed_everything

POSITION = "pos_embed"


def create_training_model(run: Run) -> nn.Module:
    """The run's model on its device, with BatchNorm synchronised between processes.

    Raises:
        ConfigError: the options do not fit the model.
        CheckpointError: the file of ``--init`` cannot be read, or is of another architecture.
    """
    options, recipe, accelerator = run.options, run.recipe, run.accelerator
    seed_everything(recipe.seed)
    is_new = not run.is_resumable
    if options.pretrained and is_new:
        model = build_pretrained(options.variant, run.config, options.init)
        log(f"pretrained weights of {options.variant}; the last layer is freshly initialised")
    else:
        model = build(options.variant, run.config)
    if recipe.drop_path_rate and run.config.get("library") == "timm" and not run.config["drop_path_rate"]:
        log(f"{options.variant} has no drop path; it is trained without the recipe's {recipe.drop_path_rate}")
    if options.init is not None and not options.pretrained and is_new:
        fresh = initialize(model, options.init)
        log(f"weights from {options.init}; re-initialised: {', '.join(fresh) or 'nothing'}")
    if options.freeze:
        freeze_body(model)
    if accelerator.num_processes > 1:
        model = synchronize_batchnorm(model, accelerator.device)
    return model.to(accelerator.device)


def initialize(model: nn.Module, path: Path) -> list[str]:
    """Loads the weights of a checkpoint of this package (its moving average, if it has one) or of the authors.

    The classifier is left as it is where the number of classes differs. A plain position embedding is resampled to
    the model's grid.

    Args:
        model: built for the new classes and image size.
        path: ``ckpt.pt``, the authors' ``.pth``, or a ``.safetensors`` file.

    Returns:
        The names of the weights that keep their fresh initialisation.

    Raises:
        CheckpointError: the file cannot be read, or is of another architecture.
    """
    state = read_safetensors(path) if path.suffix == ".safetensors" else _weights(read_file(path))
    own = model.state_dict()
    if POSITION in state and POSITION in own and state[POSITION].shape != own[POSITION].shape:
        state[POSITION] = _resample_position(state[POSITION], model, path)
    fresh = [name for name in _classifier_names(model) if name in state and state[name].shape != own[name].shape]
    for name in fresh:
        del state[name]
    try:
        result = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit the model: {str(error).splitlines()[1].strip()}") from error
    missing = sorted(set(result.missing_keys) - set(fresh))
    if missing or result.unexpected_keys:
        raise CheckpointError(
            f"{path} is of another architecture: it lacks {_first(missing)} and has {_first(result.unexpected_keys)} besides"
        )
    return fresh


def _resample_position(position: Tensor, model: nn.Module, path: Path) -> Tensor:
    """A position embedding ``(1, N, D)`` of a square grid, resampled to that of a DHVT or of a vision transformer of timm."""
    grid = getattr(getattr(model, "config", None), "grid_size", None)
    grid = grid or getattr(getattr(model, "patch_embed", None), "grid_size", None)
    prefix = 0 if getattr(model, "no_embed_class", False) else getattr(model, "num_prefix_tokens", 1)
    try:
        if grid is None:
            raise ValueError("the model does not tell its grid of patches")
        resampled: Tensor = resample_abs_pos_embed(position, list(grid), num_prefix_tokens=prefix)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"the position embedding of {path} cannot be resampled to this image size: {error}; "
            "train with the --img-size that it was made with"
        ) from error
    return resampled


def freeze_body(model: nn.Module) -> None:
    """Leaves only the classifier to be trained."""
    trained = set(_classifier_names(model))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)


def _classifier_names(model: nn.Module) -> list[str]:
    classifier = getattr(model, "get_classifier")()  # noqa: B009  # timm's convention, which nn.Module does not know
    members = {id(parameter) for parameter in classifier.parameters()}
    return [name for name, parameter in model.named_parameters() if id(parameter) in members]


def _weights(values: Any) -> State:
    if isinstance(values, dict) and values.get("format") == FORMAT:
        return dict(values["ema"] or values["weights"])
    return from_authors(values)


def _first(names: list[str]) -> str:
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0] if names else "nothing"
