import pytest

from dhvt.errors import ConfigError
from dhvt.training.config import Recipe, preset_names
from dhvt.training.optim import learning_rate


@pytest.mark.parametrize("name", preset_names())
def test_presets_load_and_take_overrides(name):
    assert Recipe.preset(name, epochs=3).epochs == 3


PAPER = {
    "epochs": 300,
    "optimizer": "adamw",
    "lr_batch_size": 512,
    "min_lr": 1e-5,
    "warmup_lr": 1e-6,
    "schedule": "cosine",
    "weight_decay": 0.05,
    "drop_path_rate": 0.1,
    "label_smoothing": 0.1,
    "auto_augment": "rand-m9-mstd0.5-inc1",
    "color_jitter": 0.0,
    "mixup": 0.8,
    "cutmix": 1.0,
    "mix_prob": 1.0,
    "switch_prob": 0.5,
    "random_erasing": 0.25,
    "repeats": 3,
    "flip": 0.5,
    "ema_decay": 0.99996,
    "resolutions": ((1.0, 1.0),),
}
"""What the authors' published configuration has for every data set."""

CIFAR = {"batch_size": 512, "lr": 1e-3, "warmup_epochs": 5, "crop": "pad", "padding_mode": "constant", "crop_pct": 1.0}
LARGE = {"batch_size": 256, "crop": "resized", "resized_min_area": 0.08, "crop_pct": 224 / 256}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("cifar10", CIFAR),
        ("cifar100", CIFAR),
        ("domainnet", LARGE | {"lr": 1e-3, "warmup_epochs": 20}),
        ("imagenet", LARGE | {"lr": 5e-4, "warmup_epochs": 10}),
    ],
)
def test_presets_have_the_papers_values(name, values):
    expected = PAPER | values
    recipe = Recipe.preset(name).to_dict()
    assert {field: recipe[field] for field in expected} == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"momentum": 0.9}, "no field momentum"),
        ({"epochs": 0}, "at least 1"),
        ({"optimizer": "sgd"}, "choose one of muon, adamw"),
        ({"lr": 0}, "more than 0"),
        ({"flip": 2}, "between 0 and 1"),
        ({"seed": -1}, "seed is -1"),
        ({"color_jitter": -0.1}, "at least 0"),
        ({"resolutions": [[0.5, 0.5]]}, "the last be 1"),
        ({"resolutions": [[0.5, 0], [1, 1]]}, "each must be more than 0"),
    ],
)
def test_impossible_recipes_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        Recipe.preset("short", **values)


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(ConfigError, match="short"):
        Recipe.preset("long")


def test_resolutions():
    recipe = Recipe(resolutions=((0.5, 0.5), (0.9, 0.75), (1.0, 1.0)))
    assert [recipe.scale_at(progress) for progress in (0, 0.49, 0.5, 0.89, 0.9, 1.0)] == [0.5, 0.5, 0.75, 0.75, 1, 1]
    assert [round(recipe.mean_scale_after(progress), 4) for progress in (0, 0.5, 0.95, 1.0)] == [0.65, 0.8, 1, 1]


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_learning_rate_rises_then_falls_to_the_minimum(schedule):
    recipe = Recipe(epochs=10, lr=1.0, min_lr=0.01, warmup_epochs=2, schedule=schedule)
    rates = [learning_rate(recipe, step, 10) for step in range(100)]
    assert rates[:20] == sorted(rates[:20])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[20] == 1.0
    assert rates[0] == 1e-6
    assert rates[-1] == pytest.approx(0.01, abs=0.02)
