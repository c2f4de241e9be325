import pytest

from dhvt.errors import ConfigError
from dhvt.optim import learning_rate
from dhvt.recipe import TrainRecipe, load_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_presets_load_and_take_overrides(name):
    assert load_recipe(name, epochs=3).epochs == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"momentum": 0.9}, "no field momentum"),
        ({"epochs": 0}, "at least 1"),
        ({"optimizer": "sgd"}, "choose one of muon, adamw"),
        ({"lr": 0}, "positive"),
        ({"flip": 2}, "between 0 and 1"),
        ({"resolutions": [[0.5, 0.5]]}, "the last be 1"),
    ],
)
def test_impossible_recipes_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe("short", **values)


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(ConfigError, match="short"):
        load_recipe("long")


def test_resolutions():
    recipe = TrainRecipe(resolutions=((0.5, 0.5), (0.9, 0.75), (1.0, 1.0)))
    assert [recipe.scale_at(progress) for progress in (0, 0.49, 0.5, 0.89, 0.9, 1.0)] == [0.5, 0.5, 0.75, 0.75, 1, 1]


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_learning_rate_rises_then_falls_to_the_minimum(schedule):
    recipe = TrainRecipe(epochs=10, lr=1.0, min_lr=0.01, warmup_epochs=2, schedule=schedule)
    rates = [learning_rate(recipe, step, 10) for step in range(100)]
    assert rates[:20] == sorted(rates[:20])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[20] == 1.0
    assert rates[0] == 1e-6
    assert rates[-1] == pytest.approx(0.01, abs=0.02)
