"""Resuming a run from its checkpoint, with the same options or with another recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from dhvt.configuration import from_dict
from dhvt.data.levels import FULL_FLOAT, FULL_INTEGER
from dhvt.errors import CheckpointError
from dhvt.model.checkpoint import Checkpoint, load_checkpoint, require_equal
from dhvt.training.checkpoints import RunRecord
from dhvt.training.config import Recipe
from dhvt.training.progress import log
from dhvt.training.run import BEST_NAME, CHECKPOINT_NAME, Run, use_best
from dhvt.training.step import TrainState


def resume(run: Run, state: TrainState) -> RunRecord:
    """Takes over the state and the record of the run's checkpoint; without one the run starts at step 0.

    Raises:
        CheckpointError: the checkpoint cannot be read, or is of another model, recipe, set of classes or images, or
            preprocessing.
    """
    path = run.options.out / CHECKPOINT_NAME
    checkpoint = _load_last(run, path)
    if checkpoint is None:
        log(f"nothing to resume at {path}; starting at the first step")
        return new_record(run)
    _require_same_run(checkpoint, run)
    state.restore(checkpoint)
    if state.step > state.total_steps:
        raise CheckpointError(
            f"{path} is of step {state.step}, which is beyond {run.recipe.epochs} epochs of {state.steps_per_epoch} steps; "
            f"give --epochs {math.ceil(state.step / state.steps_per_epoch)} or more"
        )
    commands = checkpoint.provenance["commands"]
    before = from_dict(Recipe, checkpoint.recipe)
    best = checkpoint.best
    if best and (before.class_weights, before.crop_pct) != (run.recipe.class_weights, run.recipe.crop_pct):
        log(f"the validation loss is another from here on; the best epoch so far, {best['epoch']}, is not compared with it")
        best = {}
    if before != run.recipe:
        commands = [*commands, {"from_step": checkpoint.step, "command": run.command}]
    return RunRecord(
        commands=commands,
        model_name=run.options.name or checkpoint.model_name or run.options.model_name,
        metrics=checkpoint.metrics,
        best=best,
        epoch_metrics=checkpoint.epoch_metrics,
        temperature=checkpoint.temperature,
        train_seconds=float(checkpoint.provenance.get("train_seconds", 0.0)),
    )


def new_record(run: Run) -> RunRecord:
    """That of a run before its first step."""
    return RunRecord(commands=[{"from_step": 0, "command": run.command}], model_name=run.options.model_name)


def _load_last(run: Run, path: Path) -> Checkpoint | None:
    """The main process's checkpoint, in every process: other machines may have none. None where it has none.

    Raises:
        CheckpointError: there is a best one alone, which the new run's would replace.
    """
    best = path.with_name(BEST_NAME)
    if run.accelerator.is_main_process and best.exists() and not path.exists():
        raise CheckpointError(f"{path} is gone, and {best} cannot be resumed; {use_best(best)}")
    found = [load_checkpoint(path) if run.accelerator.is_main_process and path.exists() else None]
    if found[0] is not None and found[0].best and not best.exists():
        log(f"{BEST_NAME} is no longer beside {path}; the best epoch from here on is kept")
        found[0].best = {}
    if run.accelerator.num_processes > 1:
        broadcast_object_list(found)
    return found[0]


def _require_same_run(checkpoint: Checkpoint, run: Run) -> None:
    recipe, preprocess = from_dict(Recipe, checkpoint.recipe), checkpoint.build_preprocess()
    expected = recipe
    if run.options.change_recipe:  # but with another batch size or seed, the steps done would mean another order
        expected = replace(run.recipe, batch_size=recipe.batch_size, seed=recipe.seed, repeats=recipe.repeats)
        preprocess = replace(preprocess, crop_pct=run.preprocess.crop_pct)  # a field of the recipe
    # Checkpoints that do not record what is white were made with these.
    preprocess = replace(
        preprocess,
        integer_white=preprocess.integer_white or FULL_INTEGER,
        float_white=preprocess.float_white or FULL_FLOAT,
    )
    require_equal("variant", checkpoint.name, run.options.variant)
    require_equal("config", checkpoint.config, run.config)
    require_equal("classes", checkpoint.classes, run.classes)
    hint = "repeat the first command with --resume, add --change-recipe for another recipe"
    require_equal("recipe", expected.to_dict(), run.recipe.to_dict(), hint)
    hint = "give the same --img-size, --resize-mode and --white"
    require_equal("preprocessing", preprocess.to_dict(), run.preprocess.to_dict(), hint)
    if checkpoint.frozen is not None:
        require_equal("--freeze", checkpoint.frozen, run.options.freeze)
    if checkpoint.data:
        hint = (
            "give the same --data, --val, --val-fraction, --calibration-fraction, --group-by and --exclude, with the same "
            "readable images in them"
        )
        require_equal("data", identify_data(checkpoint.data), identify_data(run.data), hint)


def identify_data(data: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns what must not change: how images were held out, which explains most differences, and the fingerprints."""
    validation = data.get("validation", {})
    held_out = {
        "val_fraction": validation.get("held_out_fraction"),
        "calibration_fraction": data.get("reference", {}).get("held_out_fraction"),
        "group_by": validation.get("group_by"),
    }
    return held_out | {kind: record["digest"] for kind, record in data.items()}
