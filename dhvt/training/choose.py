"""What a run chooses before it starts, for the options that are ``auto``: the model, its image size and the epochs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch.utils.flop_counter import FlopCounterMode

from dhvt.configuration import from_dict
from dhvt.data.sources import ImageSource
from dhvt.hardware.cpus import available_cpus
from dhvt.model.checkpoint import FORMAT, load_checkpoint, read_file
from dhvt.model.config import VARIANTS, DHVTConfig
from dhvt.model.factory import DEFAULT_IMG_SIZE, build, configure
from dhvt.model.pretrained import published_preprocessing, published_size
from dhvt.training.automatic import (
    SIZES,
    SMALL_VARIANT,
    SizeChoice,
    choose_epochs,
    choose_size,
    default_variant,
    device_gflops,
    forward_gflop,
    sample_shorter_sides,
    sizes_that_fit,
    training_minutes,
)
from dhvt.training.config import Recipe, RunOptions
from dhvt.training.fields import AUTO, UNCHOSEN
from dhvt.training.progress import log

_NORMALIZATION = ("mean", "std", "interpolation")  # fields of a Preprocess
_OF_A_NODE = ("data", "val", "out", "exclude", "init")  # fields of RunOptions
_SET_BY_THE_RUN = ("num_classes", "img_size", "drop_path_rate")  # fields of a DHVTConfig that are no model options


class Choice(NamedTuple):
    """What a run starts with.

    Args:
        options, recipe: with a name or a number for each ``auto``.
        keeps_stem: whether the first layers of timm's model stay as they are for small images too, as its weights need.
        normalization: the fields of ``Preprocess`` that its weights expect to be other than by default.
    """

    options: RunOptions
    recipe: Recipe
    keeps_stem: bool
    normalization: dict[str, Any]


def choose_automatically(
    options: RunOptions, recipe: Recipe, images: ImageSource, accelerator: Accelerator, checkpoint: Path
) -> Choice:
    """What the options leave open; the same in every process, but for the paths, which each node has its own of.

    A resumed run keeps what its checkpoint has. ``--init`` with a checkpoint of this package keeps its model, image size and
    normalisation.

    Args:
        images: to train on.
        checkpoint: what ``--resume`` goes on from, if it exists.

    Raises:
        CheckpointError: the file to resume or start from cannot be read.
        ConfigError: the model cannot be built.
    """
    chosen = [_choose(options, recipe, images, accelerator, checkpoint) if accelerator.is_main_process else None]
    if accelerator.num_processes > 1:
        broadcast_object_list(chosen)
    assert chosen[0] is not None, "the main process has chosen"
    own = {name: getattr(options, name) for name in _OF_A_NODE}
    return chosen[0]._replace(options=replace(chosen[0].options, **own))


def _choose(options: RunOptions, recipe: Recipe, images: ImageSource, accelerator: Accelerator, checkpoint: Path) -> Choice:
    is_open = UNCHOSEN in (recipe.epochs, options.img_size) or options.variant == AUTO
    resumed = None
    if options.resume and checkpoint.exists() and (is_open or options.init is not None):
        resumed = load_checkpoint(checkpoint)
    if recipe.epochs == UNCHOSEN:
        epochs = None if resumed is None else resumed.recipe.get("epochs")  # an imported model has no recipe
        recipe = replace(recipe, epochs=_choose_epochs(recipe, len(images)) if epochs is None else epochs)
    origin = _Origin(resumed.name, resumed.config, resumed.preprocess) if resumed is not None else _read_origin(options)
    if origin is not None:
        options = _keep(options, origin.name, origin.config)
    if options.pretrained and options.img_size == UNCHOSEN:
        options = replace(options, img_size=published_size(options.variant))
    options = _choose_size(options, recipe, images, accelerator)
    if options.pretrained:
        return Choice(options, recipe, True, published_preprocessing(options.variant))
    if options.init is None or origin is None or origin.name != options.variant:
        return Choice(options, recipe, False, {})
    normalization = {name: origin.preprocess[name] for name in _NORMALIZATION if name in origin.preprocess}
    return Choice(options, recipe, bool(origin.config.get("keeps_stem")), normalization)


class _Origin(NamedTuple):
    """The model of a checkpoint."""

    name: str
    config: dict[str, Any]
    preprocess: dict[str, Any]


def _read_origin(options: RunOptions) -> _Origin | None:
    """The model of ``--init``, if that is a checkpoint of this package."""
    if options.init is None or options.pretrained or options.init.suffix == ".safetensors":
        return None
    initial = read_file(options.init)
    if not isinstance(initial, dict) or initial.get("format") != FORMAT:
        return None
    return _Origin(initial["name"], initial["config"], initial["preprocess"])


def _choose_size(options: RunOptions, recipe: Recipe, images: ImageSource, accelerator: Accelerator) -> RunOptions:
    """The options with a variant and an image size."""
    if options.init is not None and options.variant == AUTO:
        options = replace(options, variant=SMALL_VARIANT)
    if options.img_size != UNCHOSEN and options.variant != AUTO:
        return options
    if options.init is not None and options.variant in VARIANTS:
        return replace(options, img_size=VARIANTS[options.variant].img_size[0])
    return _choose_model(options, recipe, images, accelerator)


def _keep(options: RunOptions, name: str, config: dict[str, Any]) -> RunOptions:
    """The options with the model of a checkpoint, where they leave it open."""
    if options.variant not in (AUTO, name):
        return options
    if options.variant == AUTO and name in VARIANTS:
        usual = VARIANTS[name].to_dict()
        changed = {key: value for key, value in config.items() if key not in _SET_BY_THE_RUN and value != usual.get(key)}
        options = replace(options, model_options=changed | options.model_options)
    elif options.variant == AUTO:
        options = replace(options, model_options=config.get("options", {}) | options.model_options)
    height, width = config["img_size"]
    keeps_size = options.img_size == UNCHOSEN and height == width
    return replace(options, variant=name, img_size=height if keeps_size else options.img_size)


def _choose_epochs(recipe: Recipe, images: int) -> int:
    epochs = choose_epochs(images, recipe.batch_size)
    steps = max(images // recipe.batch_size, 1)
    log(f"--epochs auto: {epochs} epochs of {steps} steps, {epochs * steps} in all")
    return epochs


def _choose_model(options: RunOptions, recipe: Recipe, images: ImageSource, accelerator: Accelerator) -> RunOptions:
    """The options with a variant and an image size, of which one at least is open."""
    if options.variant == AUTO and options.img_size != UNCHOSEN:
        return _with_default_variant(options, options.img_size)
    sides = sample_shorter_sides(images)
    median = float(np.median(sides)) if len(sides) else float(SIZES[0])
    gflops = device_gflops(accelerator.device.type, available_cpus()) * (
        accelerator.num_processes if accelerator.device.type == "cuda" else 1
    )
    choice = choose_size(
        median,
        lambda size: _gflop(options, size),
        lambda gflop: training_minutes(
            gflop, images=len(images), epochs=recipe.epochs, resolutions=recipe.resolutions, gflops=gflops
        ),
        sizes=_sizes(options),
        budget=options.auto_minutes,
    )
    options = replace(_with_default_variant(options, choice.img_size), img_size=choice.img_size)
    log(_describe(options, choice, median, gflops))
    return options


def _describe(options: RunOptions, choice: SizeChoice, median: float, gflops: float) -> str:
    reason = f"; {choice.wanted_size} pixels would take too long" if choice.img_size < choice.wanted_size else ""
    changes = "".join(f", {name} {value}" for name, value in options.model_options.items())
    tokens = ""
    if options.variant in VARIANTS:
        patch = options.model_options.get("patch_size", VARIANTS[options.variant].patch_size)
        tokens = f", {(choice.img_size // patch) ** 2} patches of {patch} pixels"
    return (
        f"--img-size auto: {choice.img_size} pixels{tokens}, the images' median shorter side is {median:g}{reason}\n"
        f"model: {options.variant}{changes}, {choice.gflop:.2f} GFLOP an image; about {max(choice.minutes, 1):.0f} minutes of "
        f"training by calculation, at {gflops:,.0f} GFLOP/s (budget: --auto-minutes {options.auto_minutes:g})"
    )


def _with_default_variant(options: RunOptions, img_size: int) -> RunOptions:
    """The options with the tiny DHVT for an image size, if they name no variant."""
    if options.variant != AUTO:
        return options
    if "patch_size" in options.model_options:
        return replace(options, variant=SMALL_VARIANT)
    name, changes = default_variant(img_size)
    return replace(options, variant=name, model_options={**changes, **options.model_options})


def _sizes(options: RunOptions) -> tuple[int, ...]:
    """The image sizes that the model leaves to choose from."""
    if options.variant == AUTO and "patch_size" not in options.model_options:
        return SIZES
    options = _with_default_variant(options, DEFAULT_IMG_SIZE)
    if options.variant in VARIANTS:
        usual = VARIANTS[options.variant]
        patch = options.model_options.get("patch_size", usual.patch_size)
        return sizes_that_fit(patch, usual.img_size[0]) if type(patch) is int and patch > 0 else usual.img_size[:1]
    default_cfg = timm.get_pretrained_cfg(options.variant) if timm.is_model(options.variant) else None
    if default_cfg is not None and default_cfg.fixed_input_size:
        return tuple(sorted({DEFAULT_IMG_SIZE, default_cfg.input_size[-1]}))
    return SIZES


def _gflop(options: RunOptions, size: int) -> float:
    """Billions of operations of a forward pass: calculated for a DHVT, counted for a model of timm."""
    options = _with_default_variant(options, size)
    config = configure(options.variant, num_classes=2, img_size=size, options=options.model_options)
    if options.variant in VARIANTS:
        return forward_gflop(from_dict(DHVTConfig, config))
    with torch.random.fork_rng(devices=[]), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        build(options.variant, config).eval()(torch.zeros(1, 3, size, size))
    return float(counter.get_total_flops()) / 1e9
