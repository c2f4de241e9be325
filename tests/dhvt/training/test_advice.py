"""``dhvt check`` advises what ``dhvt train`` chooses."""

from dataclasses import replace

from accelerate import Accelerator

from dhvt.data.inspection.inspection import inspect
from dhvt.data.splits import open_training_data
from dhvt.training.advice import advise
from dhvt.training.choose import choose_automatically
from dhvt.training.config import Recipe, RunOptions
from tests.conftest import draw


def test_the_advice_is_what_a_training_chooses(tmp_path):
    for label, (name, number) in enumerate((("circle", 30), ("square", 2))):
        (tmp_path / "data" / name).mkdir(parents=True)
        for seed in range(number):
            draw(label, seed, (100, 90)).save(tmp_path / "data" / name / f"{seed}.png")
    data = str(tmp_path / "data")
    images = open_training_data(data).train
    options = RunOptions(data=data, out=tmp_path)
    recipe = replace(Recipe.preset(options.recipe), batch_size=128)
    chosen = choose_automatically(options, recipe, images, Accelerator(cpu=True), tmp_path / "ckpt.pt")
    size, epochs, classes, reference = advise(inspect(data))
    assert f"--img-size auto, the default, takes {chosen[0].img_size}." in size
    assert "the median shorter side is 90 pixels" in size
    assert f"takes {chosen[1].epochs}, about" in epochs
    assert "28 images to learn from make 1 step an epoch" in epochs
    assert "15 times the images of the smallest" in classes
    assert "too few images to hold out a tenth (2) for prediction sets" in reference
    assert "--class-weights" in classes
