"""The images of a run, found broken or listed before its first step."""

import os
import shutil
from types import SimpleNamespace

import pytest
from accelerate import Accelerator
from click.testing import CliRunner

from dhvt.cli.main import main
from dhvt.data.first_look import look_at
from dhvt.data.reopen import reopen_validation
from dhvt.data.sources import open_dataset
from dhvt.errors import ConfigError, DataError
from dhvt.model.checkpoint import load_checkpoint
from dhvt.training.config import RunOptions
from dhvt.training.open_images import open_images

SMALL = ["--device", "cpu", "--batch-size", "16", "--model-option", "depth=1", "--model-option", "embed_dim=32"]


@pytest.fixture
def data(image_folder, tmp_path):
    """60 images, of which two are broken."""
    folder = shutil.copytree(image_folder, tmp_path / "data")
    (folder / "circle" / "03.png").write_bytes(b"no image")
    cut = folder / "square" / "07.png"
    cut.write_bytes(cut.read_bytes()[:-40])
    return folder


def open_them(data, tmp_path, **options):
    return open_images(RunOptions(data=str(data), out=tmp_path / "out", **options), 0, Accelerator(cpu=True))


def names(source):
    return [source.name(index) for index in range(len(source))]


def test_all_broken_images_are_in_one_message(data, tmp_path):
    (data / "circle" / os.fsdecode(b"\xff\x1b.png")).touch()
    with pytest.raises(DataError) as caught:
        open_them(data, tmp_path)
    message = str(caught.value)
    assert "3 images cannot be read:\n" in message
    assert "03.png: not an image" in message
    assert "07.png: the image is damaged" in message
    assert "\\udcff\\x1b.png" in message  # a name in no encoding, with a terminal's control character
    assert "--on-broken skip" in message


def test_what_was_held_out_does_not_depend_on_how_a_broken_image_was_left_out(data, tmp_path):
    (tmp_path / "bad.txt").write_text("circle/03.png\nsquare/07.png\nsquare/99.png\n")
    skipped = open_them(data, tmp_path, on_broken="skip")
    excluded = open_them(data, tmp_path, exclude=tmp_path / "bad.txt")
    val, omitted = skipped.data["validation"], skipped.data["training"].pop("omitted")
    assert omitted == excluded.data["training"].pop("omitted")
    for kind in ("circle/03.png", "square/07.png"):
        (data / kind).unlink()
    removed = open_them(data, tmp_path)
    assert skipped.data == excluded.data == removed.data
    assert [len(found.broken) for found in (skipped, excluded, removed)] == [2, 0, 0]
    assert names(skipped.images.val) == names(removed.images.val)
    assert (len(removed.images.train), val["images"]) == (52, 6)


def test_an_export_finds_the_same_held_out_images(data, tmp_path):
    found = open_them(data, tmp_path, on_broken="skip")
    train, val = reopen_validation(data, found.images.train.classes, found.data, 0)
    assert names(train) == names(found.images.train)
    assert names(val) == names(found.images.val)


def test_the_processes_of_a_machine_share_the_look_out(data, tmp_path, monkeypatch):
    """Here the second of two, which reads every other image and gets the rest from the first."""
    alone = open_them(data, tmp_path, on_broken="skip")
    read = []

    def look(source, indices, on_progress=None):
        read.extend(indices)
        return look_at(source, indices, on_progress)

    def gather(objects):
        own = objects[0]
        return [own, own] if isinstance(own, str) else [look_at(open_dataset(data), range(0, 60, 2)), own]

    monkeypatch.setattr("dhvt.training.open_images.look_at", look)
    for module in ("open_images", "distributed"):
        monkeypatch.setattr(f"dhvt.training.{module}.gather_object", gather)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    second = SimpleNamespace(num_processes=2, process_index=1, local_process_index=1, is_main_process=False)
    shared = open_images(RunOptions(data=str(data), out=tmp_path, on_broken="skip"), 0, second)
    assert read == list(range(1, 60, 2))
    assert (shared.data, shared.broken) == (alone.data, alone.broken)


def test_a_split_without_a_readable_image_is_an_error(data, tmp_path):
    for path in data.glob("*/*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"not one image of .* can be used:\n"):
        open_them(data, tmp_path, on_broken="skip")
    with pytest.raises(ConfigError, match="cannot read --exclude"):
        open_them(data, tmp_path, exclude=tmp_path / "none.txt")


def test_a_run_is_resumed_after_its_broken_images_were_removed(data, tmp_path):
    def train(*options):
        arguments = ["train", "--data", str(data), "--out", str(tmp_path / "out"), *SMALL, *options]
        return CliRunner().invoke(main, arguments)

    (tmp_path / "bad.txt").write_text("stripes/00.png\n")
    exclude = ["--exclude", str(tmp_path / "bad.txt")]
    first = train("--epochs", "1", "--on-broken", "skip", *exclude)
    assert first.exit_code == 0, first.output
    assert "1 image left out, as listed in" in first.output
    assert "omitted, since 2 images cannot be read:\n" in first.output
    assert load_checkpoint(tmp_path / "out" / "ckpt.pt").metrics["broken_images"] == 2
    assert "bad.txt" in (tmp_path / "out" / "config.toml").read_text()
    (data / "circle" / "03.png").unlink()
    (data / "square" / "07.png").unlink()
    more = ["--epochs", "2", "--resume", "--change-recipe"]
    refused = train(*more)  # without the list there is another image
    assert "the same readable images" in refused.output
    (data / "stripes" / "00.png").unlink()
    resumed = train(*more)
    assert resumed.exit_code == 0, resumed.output
    assert load_checkpoint(tmp_path / "out" / "ckpt.pt").metrics["epoch"] == 2
