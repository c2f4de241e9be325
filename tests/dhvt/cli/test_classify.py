"""``dhvt classify`` over files, folders and patterns, and what it writes."""

import csv
import io
import json
import os

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from dhvt.cli.main import main
from tests.conftest import draw, encode


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Three images at two depths, a broken one, and files that are none."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "deeper" / ".hidden").mkdir(parents=True)
    for name, label in (("a.png", 0), ("b.JPG", 1), ("deeper/c.webp", 2), ("deeper/.hidden/d.png", 0)):
        (folder / name).write_bytes(encode(draw(label, label), {"JPG": "JPEG"}.get(name[-3:], name.rpartition(".")[2].upper())))
    (folder / "broken.png").write_bytes(encode(draw(0, 0), "PNG")[:100])
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def classify(artifact_path):
    def run(*arguments):
        command = ["classify", "--model", artifact_path, "--engine", "onnxruntime", *arguments]
        return CliRunner().invoke(main, [str(argument) for argument in command])

    return run


FOUND = ["a.png", "b.JPG", "broken.png", "deeper/c.webp"]


def test_a_folder_is_taken_whole_and_a_broken_image_loses_no_other(classify, images):
    result = classify("--json", "--top-k", 2, images)
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["file"] for answer in answers] == [str(images / name) for name in FOUND if name != "broken.png"]
    assert all(len(answer["predictions"]) == 2 for answer in answers)
    assert (result.exit_code, result.stderr.count("broken.png")) == (1, 1)


def test_patterns_and_files_are_taken_once_in_the_order_given(classify, images):
    result = classify("--json", images / "deeper" / "c.webp", images / "**" / "*.webp", images / "?.png")
    assert [json.loads(line)["file"] for line in result.stdout.splitlines()] == [
        str(images / "deeper" / "c.webp"),
        str(images / "a.png"),
    ]
    assert result.exit_code == 0


@pytest.mark.parametrize(("name", "message"), [("*.gif", "nothing matches"), ("empty", "has no images")])
def test_what_names_no_image_is_an_error(classify, tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    result = classify(tmp_path / name)
    assert (result.exit_code, message in result.stderr) == (2, True)


def test_csv_and_parquet_have_a_row_for_each_image_and_say_the_same(classify, images, tmp_path):
    file = tmp_path / "classes.parquet"
    file.write_text("of an earlier run")
    assert classify("--parquet", file, "--top-k", 2, images).exit_code == 1
    printed = classify("--csv", "--top-k", 2, images)
    assert printed.exit_code == 1
    rows = list(csv.DictReader(io.StringIO(printed.stdout)))
    table = pq.read_table(file)
    assert [row["file"] for row in rows] == table["file"].to_pylist() == [str(images / name) for name in FOUND]
    for row, entry in zip(rows, table.to_pylist(), strict=True):
        if entry["error"]:
            assert row["error"] == entry["error"]
            assert entry["labels"] is None
        else:
            assert [row["label"], row["label_2"]] == entry["labels"]
            assert [float(row["score"]), float(row["score_2"])] == entry["scores"]
    assert set(table.schema.metadata) == {b"model", b"version", b"digest"}
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_name_that_is_no_utf_8_loses_no_answer(classify, tmp_path):
    folder, file = tmp_path / "images", tmp_path / "classes.parquet"
    folder.mkdir()
    for name, data in (
        (b"K\xe4fer.png", encode(draw(1, 1))),
        (b"kaputt-\xfc.png", b"no image"),
        (b"z.png", encode(draw(0, 0))),
    ):
        (folder / os.fsdecode(name)).write_bytes(data)
    names = [f"{folder}/{name}" for name in ("K\\udce4fer.png", "kaputt-\\udcfc.png", "z.png")]
    assert classify("--parquet", file, folder).exit_code == 1
    assert pq.read_table(file)["file"].to_pylist() == names
    rows = csv.DictReader(io.StringIO(classify("--csv", folder).stdout))
    assert [row["file"] for row in rows] == names
    printed = classify(folder)
    assert [line.partition(": ")[0] for line in printed.stdout.splitlines()] == [names[0], names[2]]
    assert printed.stderr.startswith(f"{names[1]}: ")


def test_where_a_parquet_file_cannot_be_is_said_before_anything_is_classified(classify, images, tmp_path):
    result = classify("--parquet", tmp_path / "missing" / "classes.parquet", images)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "choose another file for --parquet" in result.stderr
    assert "give one of them" in classify("--csv", "--parquet", tmp_path / "classes.parquet", images).stderr


def test_a_full_disk_is_one_line(classify, images, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("Error writing bytes to file")

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", fail)
    result = classify("--parquet", tmp_path / "classes.parquet", images)
    assert (result.exit_code, "Error writing bytes to file; choose another" in result.stderr) == (1, True)
    assert not list(tmp_path.glob("*.parquet"))


def test_a_name_that_is_too_long_loses_no_other(classify, images):
    result = classify("--json", "a" * 300 + ".png", images / "a.png")
    assert len(result.stdout.splitlines()) == 1, result.output
    assert "File name too long" in result.stderr
