"""``dhvt check`` of a folder in which much is wrong, and of one in which nothing is."""

import json
import os
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from dhvt.cli.main import main
from dhvt.data.exclusion import ExcludeList
from dhvt.data.sources import open_dataset
from tests.conftest import encode

HOSTILE = os.fsdecode(b"<script>\xff\n\x1b[31m.png")


def photograph(seed, side=40):
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)


def check(*arguments):
    return CliRunner().invoke(main, ["check", *map(str, arguments)])


@pytest.fixture(scope="module")
def dirty(tmp_path_factory):
    """Two splits of the classes cat and dog with one of everything that can be wrong."""
    root = tmp_path_factory.mktemp("dirty")
    for split, count in (("train", 12), ("val", 3)):
        for label, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for seed in range(count):
                photograph([len(split), label, seed]).save(root / split / name / f"{seed:02}.png")
    train, val = root / "train", root / "val"
    (train / "cat" / "broken.jpg").write_bytes(b"no image")
    (train / "cat" / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(40))
    (train / "dog" / "cut.png").write_bytes(encode(photograph(50))[:-60])
    (train / "dog" / "empty.png").touch()
    (train / "dog" / "raw.NEF").write_bytes(b"raw")
    (train / "dog" / "notes.txt").write_text("hello")
    (train / "dog" / ".hidden").touch()
    photograph(51).save(train / "stray.png")
    shutil.copy(train / "cat" / "00.png", val / "cat" / "leaked.png")
    shutil.copy(train / "cat" / "01.png", train / "dog" / "mislabelled.png")
    shutil.copy(train / "cat" / "02.png", train / "cat" / "again.png")
    Image.open(train / "dog" / "03.png").resize((36, 36)).save(val / "dog" / "scaled.jpg", quality=80)
    (train / "lonely").mkdir()
    photograph(52).save(train / "lonely" / "one.png")
    Image.fromarray((np.random.default_rng(0).random((40, 40)) * 65535).astype(np.uint16)).save(train / "cat" / "deep.png")
    Image.fromarray(np.random.default_rng(1).random((40, 40)).astype(np.float32)).save(train / "cat" / "float.tiff")
    photograph(53).convert("CMYK").save(train / "dog" / "print.jpg")
    Image.new("RGBA", (40, 40), (9, 9, 9, 128)).save(train / "dog" / "blank.png")
    photograph(54).resize((120, 40)).save(train / "dog" / "long.png")
    photograph(55).save(train / "dog" / "film.gif", save_all=True, append_images=[photograph(56)])
    photograph(57).save(train / "dog" / HOSTILE)
    return root


@pytest.fixture(scope="module")
def checked(dirty, tmp_path_factory):
    out = tmp_path_factory.mktemp("check")
    result = check(dirty, "--out", out, "--fix-list", out / "bad.txt", "--num-workers", "2")
    return result, json.loads((out / "check.json").read_text()), out


def test_everything_that_is_wrong_is_named(dirty, checked):
    result, record, _ = checked
    findings = {finding["kind"]: finding for finding in record["findings"]}
    names = {
        kind: sorted(
            os.path.basename(text.split(": ")[0])
            for text in finding.get("lines", [image["path"] for group in finding.get("groups", []) for image in group])
        )
        for kind, finding in findings.items()
    }
    assert names["broken"] == ["broken.jpg", "cut.png", "empty.png", "phone.heic"]
    assert "HEIC" in next(line for line in findings["broken"]["lines"] if "phone" in line)
    assert names["unread_formats"] == ["raw.NEF"]
    assert names["other_files"] == ["notes.txt"]
    assert names["hidden"] == [".hidden"]
    assert names["misplaced"] == ["stray.png"]
    assert names["exact_across_classes"] == ["01.png", "mislabelled.png"]
    assert names["exact_across_splits"] == ["00.png", "leaked.png"]
    assert names["exact_within_class"] == ["02.png", "again.png"]
    assert names["near_across_splits"] == ["03.png", "scaled.jpg"]
    assert names["scarce"] == names["missing_classes"] == ["lonely"]
    assert names["blank"] == ["blank.png"]
    assert names["long"] == ["long.png"]
    assert names["animated"] == ["film.gif"]
    assert [line.partition(": ")[2] for line in findings["levels"]["lines"]] == [
        "white is 65535 (--white gives another)", "white is 1 (--white gives another)"
    ]  # fmt: skip
    modes = {line.rpartition(": ")[0] for line in findings["modes"]["lines"]}
    assert {"16-bit grey", "floating-point grey", "CMYK", "RGB with transparency", "TIFF file"} <= modes
    assert {finding["kind"] for finding in record["findings"] if finding["level"] == "fix"} == {
        "broken", "exact_across_classes", "exact_across_splits"
    }  # fmt: skip
    assert record["splits"]["train"]["readable_by_class"] == {"cat": 15, "dog": 18, "lonely": 1}
    assert len(record["advice"]) == 4
    assert result.exit_code == 1
    for finding in record["findings"]:
        assert finding["title"] in result.output, finding["kind"]


def test_hostile_names_harm_neither_the_terminal_nor_the_page(checked):
    result, _, out = checked
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "\x1b[31m" not in result.output + page
    tags = set()
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.add(tag)
    parser.feed(page)
    assert "section" in tags
    assert "script" not in tags
    assert "http" not in page  # self-contained
    assert page.count("data:image/jpeg;base64,") > 20


def test_what_the_fix_list_leaves_out_needs_no_more_fixing(dirty, checked):
    text = (checked[2] / "bad.txt").read_text()
    listed = ExcludeList(checked[2] / "bad.txt")
    left_out = [name for split in ("train", "val") for name in listed.leave_out(open_dataset(dirty, split))[1]]
    assert sorted(left_out) == [
        "cat/00.png", "cat/01.png", "cat/again.png", "cat/broken.jpg", "cat/phone.heic",
        "dog/cut.png", "dog/empty.png", "dog/mislabelled.png",
    ]  # fmt: skip
    assert listed.describe_unmatched() is None
    assert "# the same file is in the classes cat, dog\n" in text
    assert f"#{dirty}/train/dog/03.png\n" in text
    result = check(dirty, "--exclude", checked[2] / "bad.txt")
    assert result.exit_code == 0, result.output
    assert "Nothing must be fixed." in result.output


def test_an_undivided_folder_and_its_smallest_classes(image_folder, tmp_path):
    data = shutil.copytree(image_folder, tmp_path / "data")
    (data / "few").mkdir()
    photograph(0).save(data / "few" / "one.png")
    (data / "none").mkdir()
    result = check(data)
    assert result.exit_code == 1
    assert "61 images in 5 classes of 0 to 20" in result.output
    assert "2 classes have fewer than two images that can be read, which cannot be divided" in result.output


def test_images_to_validate_on_may_be_elsewhere_and_have_other_classes(image_folder, tmp_path):
    (tmp_path / "test" / "triangle").mkdir(parents=True)
    photograph(1).save(tmp_path / "test" / "triangle" / "0.png")
    shutil.copytree(image_folder / "circle", tmp_path / "test" / "circle")
    result = check(image_folder, "--val", tmp_path / "test")
    assert result.exit_code == 1
    assert "test: 21 images in 2 classes" in result.output
    assert "20 groups of the same file in several splits (40 images)" in result.output
    assert "test has 1 class that the training images have not" in result.output


def test_a_clean_folder_and_wrong_options(image_folder):
    result = check(image_folder)
    assert result.exit_code == 0, result.output
    assert "60 images in 3 classes of 20" in result.output
    assert "Nothing must be fixed." in result.output
    assert check(image_folder, "--num-workers", "some").exit_code == 2
    missing = check("/nowhere")
    assert missing.exit_code == 1
    assert "/nowhere does not exist" in missing.output


def test_values_that_do_not_fit_are_named(tmp_path):
    for name, top in (("cat", 4095), ("dog", 65535)):
        for split in ("train", "val"):
            (tmp_path / split / name).mkdir(parents=True)
            values = np.random.default_rng([len(split), top]).random((40, 40)) * (4095 if split == "train" else top)
            Image.fromarray(values.astype(np.uint16)).save(tmp_path / split / name / "0.png")
    result = check(tmp_path)
    assert result.exit_code == 1
    assert "1 image of values that fit no white level" in result.output
    assert "dog/0.png: the image has whole numbers from" in result.output
    check(tmp_path, "--fix-list", tmp_path / "bad.txt")
    assert f"\n{tmp_path}/val/dog/0.png\n" in (tmp_path / "bad.txt").read_text()
    given = check(tmp_path, "--white", "65535")
    assert given.exit_code == 0, given.output
    assert "white is 65535" in given.output
    Image.fromarray(np.full((40, 40), 4.99, dtype=np.float32)).save(tmp_path / "train" / "cat" / "odd.tiff")
    before = (tmp_path / "bad.txt").read_text()
    again = check(tmp_path, "--fix-list", tmp_path / "bad.txt")
    assert (again.exit_code, "what you decided in it would be lost" in again.output) == (1, True)
    assert (tmp_path / "bad.txt").read_text() == before
    check(tmp_path, "--fix-list", tmp_path / "more.txt")
    assert f"\n{tmp_path}/train/cat/odd.tiff\n" in (tmp_path / "more.txt").read_text()
    assert "cat/odd.tiff: there are floats from 4.99 to 4.99; expected" in check(tmp_path).output


def test_what_a_training_refuses_must_be_fixed(image_folder, tmp_path):
    shutil.copytree(image_folder / "circle", tmp_path / "one" / "circle")
    shutil.copytree(image_folder, tmp_path / "untrained" / "val")
    for data, message in (("one", "there is one class only, circle"), ("untrained", "there is no train split, but val")):
        result = check(tmp_path / data)
        assert result.exit_code == 1
        assert message in result.output
    undivided = check(image_folder, "--group-by", "teacher")
    assert undivided.exit_code == 1
    assert "finds no group" in undivided.output


def test_a_broken_image_needs_no_group(image_folder, tmp_path):
    data = shutil.copytree(image_folder, tmp_path / "data")
    (data / "circle" / "odd.png").write_bytes(b"no image")
    result = check(data, "--group-by", r"(\d+)\.png")
    assert "1 image cannot be read" in result.output
    assert "finds no group" not in result.output


def test_classes_of_a_test_split_alone_are_what_evaluate_refuses(image_folder, tmp_path):
    shutil.copytree(image_folder, tmp_path / "train")
    shutil.copytree(image_folder / "circle", tmp_path / "test" / "oval")
    assert "A model cannot know them: dhvt evaluate refuses them." in check(tmp_path).output


def test_groups_in_several_splits_are_named(tmp_path):
    for split, students in (("train", (1, 2)), ("test", (2, 3))):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / split / name).mkdir(parents=True)
            for student in students:
                photograph([len(split), label, student]).save(tmp_path / split / name / f"student{student}_0.png")
    assert check(tmp_path).exit_code == 0
    result = check(tmp_path, "--group-by", r"(student\d+)_")
    assert result.exit_code == 1
    assert "1 group of --group-by in both train and test" in result.output
    assert "- student2\n" in result.output
    assert "finds no group" in check(tmp_path, "--group-by", "teacher").output


def test_a_place_that_cannot_be_written_is_refused_before_any_image_is_read(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("dhvt.data.inspection.inspection.scan", None)
    (tmp_path / "file").touch()
    for option, path, reason in (
        ("--out", tmp_path / "file", "file is a file"),
        ("--out", tmp_path / "file" / "deeper", "file is a file"),
        ("--fix-list", tmp_path, "is a folder"),
    ):
        result = check(image_folder, option, path)
        assert (result.exit_code, type(result.exception)) == (1, SystemExit)
        assert reason in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert f"{tmp_path} is not writable" in check(image_folder, "--out", tmp_path / "new" / "folder").output
