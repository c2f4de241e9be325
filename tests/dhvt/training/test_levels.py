"""A training on 12-bit images: the same as on their twins of 8 bits, and recorded."""

import numpy as np
import pytest
from PIL import Image

from dhvt.errors import DataError
from dhvt.training.config import Recipe, RunOptions
from dhvt.training.dataset import DecodedImages
from dhvt.training.run import open_run
from tests.conftest import CLASSES, draw


def write(root, scale, first=0):
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for seed in range(first, first + 4):
            pixels = np.asarray(draw(label, seed).convert("L"))
            scale(pixels).save(root / name / f"{seed}.png")
    return root


def in_12_bits(pixels):
    return Image.fromarray(pixels.astype(np.uint16) * 16)


def opened(*arguments):
    """The run, which other processes may open again."""
    with open_run(*arguments, "") as run:
        return run


def options(data, out, **changes):
    return RunOptions(**({"data": str(data), "out": out, "device": "cpu", "val_fraction": 0.25} | changes))


@pytest.mark.parametrize("crop", ["pad", "resized"])
def test_12_bits_are_trained_on_as_8_bits(tmp_path, crop, capsys):
    recipe = Recipe(crop=crop)
    folders = write(tmp_path / "deep", in_12_bits), write(tmp_path / "twin", Image.fromarray)
    deep, twin = (opened(options(folder, tmp_path / f"run of {folder.name}"), recipe) for folder in folders)
    printed = capsys.readouterr().out
    assert printed.count("12 images have whole numbers of 16 or 32 bits up to 3824: white is 4095") == 1
    assert (deep.preprocess.integer_white, deep.preprocess.float_white) == (4095, 255)
    assert (twin.preprocess.integer_white, twin.preprocess.float_white) == (65535, 255)
    images = [DecodedImages(run.images.train, run.preprocess, recipe) for run in (deep, twin)]
    for index in range(len(images[0])):
        (pixels, label, _), (expected, other, _) = (entry[0, index, 0] for entry in images)
        assert label == other
        assert np.array_equal(pixels, expected)


def test_validation_images_beyond_the_training_images_white_are_named(tmp_path):
    data = write(tmp_path / "deep", in_12_bits)
    val = write(tmp_path / "val", in_12_bits, first=10)
    Image.fromarray(np.full((9, 9), 4096, np.uint16)).save(val / "circle" / "bright.png")
    changes = {"val": str(val), "val_fraction": None}
    with pytest.raises(DataError, match=r"1 image cannot be read:\n.*bright\.png: the image has .* to 4096, .* 4095 is white"):
        opened(options(data, tmp_path / "run", **changes), Recipe())
    run = opened(options(data, tmp_path / "run", white=16383, **changes), Recipe())
    assert run.preprocess.integer_white == 16383


def test_an_image_that_fits_no_white_level_is_named_and_skipped_and_decides_nothing(tmp_path):
    data = write(tmp_path / "deep", in_12_bits)
    Image.fromarray(np.full((9, 9), 70000, np.int32)).save(data / "circle" / "beyond.tiff")
    Image.fromarray(np.full((9, 9), 3.7, np.float32)).save(data / "circle" / "odd.tiff")
    with pytest.raises(DataError, match=r"2 images cannot be read:\n.*beyond\.tiff: .* to 70000(.|\n)*odd\.tiff: .*--white"):
        opened(options(data, tmp_path / "run"), Recipe())
    run = opened(options(data, tmp_path / "run", on_broken="skip"), Recipe())
    assert run.preprocess.integer_white == 4095
    assert len(run.images.train) + len(run.images.val) == 12
    assert len(run.broken) == 2
