"""Every field of a recipe has an effect on the trained weights, or on their average."""

from dataclasses import fields, replace

import pytest
import torch

from dhvt.training.config import Recipe, RunOptions
from dhvt.training.dataset import build_loader, build_sampler
from dhvt.training.run import open_run
from dhvt.training.trainer import create_state

BASE = Recipe(
    epochs=2, batch_size=18, min_lr=1e-3, warmup_lr=1e-3, drop_path_rate=0.4, ema_decay=0.5, flip=0.5, resolutions=((1.0, 1.0),)
)
MIXED = replace(BASE, mixup=0.8, cutmix=1.0, mix_prob=1.0)

CHANGES = {
    "epochs": (BASE, 3),
    "batch_size": (BASE, 20),
    "optimizer": (BASE, "adamw"),
    "lr": (BASE, 6e-3),
    "lr_batch_size": (BASE, 128),
    "min_lr": (BASE, 2e-3),
    "warmup_lr": (BASE, 2e-3),
    "warmup_epochs": (BASE, 1.0),
    "schedule": (BASE, "linear"),
    "weight_decay": (BASE, 0.5),
    "clip_grad": (BASE, 0.1),
    "crop": (BASE, "resized"),
    "padding_mode": (BASE, "constant"),
    "resized_min_area": (replace(BASE, crop="resized"), 0.8),
    "flip": (BASE, 0.0),
    "color_jitter": (BASE, 0.3),
    "auto_augment": (BASE, "rand-m9-mstd0.5-inc1"),
    "random_erasing": (BASE, 0.5),
    "repeats": (BASE, 2),
    "mixup": (MIXED, 0.1),
    "cutmix": (MIXED, 0.1),
    "mix_prob": (MIXED, 0.3),
    "switch_prob": (MIXED, 0.0),
    "label_smoothing": (BASE, 0.0),
    "label_smoothing of mixed images": (MIXED, 0.0),
    "drop_path_rate": (BASE, 0.0),
    "ema_decay": (BASE, 0.1),
    "crop_pct": (BASE, 0.8),
    "resolutions": (BASE, ((0.5, 0.5), (1.0, 1.0))),
    "seed": (BASE, 1),
}
ELSEWHERE = {"patience", "class_weights"}
"""Fields that need more than two epochs of balanced classes; they have tests of their own."""


@pytest.fixture(scope="module")
def trained(image_folder, tmp_path_factory):
    """The weights and their average after the steps of two epochs, remembered by recipe."""
    known = {}

    def train(recipe):
        key = repr(recipe)
        if key not in known:
            options = RunOptions(
                data=str(image_folder),
                out=tmp_path_factory.mktemp("run"),
                device="cpu",
                amp="off",
                model_options={"depth": 2, "embed_dim": 16},
            )
            with open_run(options, recipe, "") as run:
                sampler = build_sampler(run)
                state, loader = create_state(run, sampler), build_loader(run, sampler)
                state.model.train()
                for epoch in range(2):
                    sampler.epoch = epoch
                    for batch in loader:
                        state.train_batch(batch)
                        state.losses.check()
            known[key] = [
                torch.cat([value.flatten().double() for value in model.state_dict().values()])
                for model in (state.model, state.averaged)
            ]
        return known[key]

    return train


@pytest.mark.parametrize("name", CHANGES)
def test_a_field_changes_the_weights(trained, name):
    """Or, as the decay of the average does, the averaged ones alone; all else equal, there is no difference at all."""
    base, value = CHANGES[name]
    field = name.split()[0]
    first, other = trained(base), trained(replace(base, **{field: value}))
    is_different = [not torch.equal(*pair) for pair in zip(first, other, strict=True)]
    assert is_different == ([False, True] if field == "ema_decay" else [True, True])


def test_equal_recipes_train_equal_weights(trained):
    again = trained(BASE), trained(replace(BASE, resized_min_area=0.5, switch_prob=0.1))
    assert all(torch.equal(*pair) for pair in zip(*again, strict=True))


def test_no_field_is_forgotten():
    assert {field.name for field in fields(Recipe)} - ELSEWHERE == {name.split()[0] for name in CHANGES}
