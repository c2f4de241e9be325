import os
import shutil

import pytest

from dhvt.data.exclusion import ExcludeList, format_entry, leave_out_recorded, pack_names
from dhvt.data.sources import open_dataset
from dhvt.errors import ConfigError, DataError


def names(source):
    return [source.name(index) for index in range(len(source))]


def test_listed_images_are_left_out_by_path_or_name_and_others_are_reported(image_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(image_folder.parent)
    path = tmp_path / "bad.txt"
    lines = ["# a comment", "", "circle/00.png", f"{image_folder}/circle/01.png", f"{image_folder.name}/circle/02.png"]
    path.write_text("\r\n".join([*lines, "circle/nowhere.png", '"circle/03.png"']), encoding="utf-8-sig")
    listed = ExcludeList(path)
    source, left_out = listed.leave_out(open_dataset(image_folder))
    assert left_out == [f"circle/0{number}.png" for number in range(4)]
    assert names(source) == names(open_dataset(image_folder))[4:]
    assert "bad.txt: 1 of 5 entries name no image of these data: circle/nowhere.png" in listed.describe_unmatched()
    assert names(leave_out_recorded(open_dataset(image_folder), {"omitted": pack_names(left_out)})) == names(source)


def test_hostile_names_survive_the_list(image_folder, tmp_path):
    hostile = [" space .png", "# no comment.png", '"quoted.png', "two\nlines.png", os.fsdecode(b"\xff\xfe.png"), "日本.png"]
    for name in [*hostile, "not listed.png"]:
        (tmp_path / "data" / "circle").mkdir(parents=True, exist_ok=True)
        shutil.copy(image_folder / "circle" / "00.png", tmp_path / "data" / "circle" / name)
    source = open_dataset(tmp_path / "data")
    path = tmp_path / "bad.txt"
    for written in (source.name, source.locate):
        entries = [
            format_entry(written(index)) for index in range(len(source)) if source.name(index) != "circle/not listed.png"
        ]
        path.write_text("\n".join(entries), encoding="utf-8")
        listed = ExcludeList(path)
        assert len(listed.leave_out(source)[1]) == len(hostile)
        assert listed.describe_unmatched() is None


def test_a_list_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot read --exclude"):
        ExcludeList(tmp_path / "none.txt")


def test_a_list_of_all_images_is_named(image_folder, tmp_path):
    path = tmp_path / "all.txt"
    path.write_text("\n".join(map(str, image_folder.rglob("*.png"))))
    with pytest.raises(DataError, match=r"--exclude .*all\.txt lists all images of .*; none is left"):
        ExcludeList(path).leave_out(open_dataset(image_folder))
