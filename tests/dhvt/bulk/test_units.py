"""What ``dhvt bulk`` reads, and in which units."""

import errno
import gzip
import io
import os
import tarfile

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from dhvt.bulk import units
from dhvt.bulk.units import find_units, read_unit
from dhvt.errors import DataError, ImageError
from tests.conftest import draw, encode

IMAGES = [encode(draw(seed % 3, seed)) for seed in range(5)]
DAMAGED = "a header is damaged or cut, or other data follow the end"


def write_tar(path, names, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in zip(names, IMAGES, strict=False):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


@pytest.fixture
def folder(tmp_path):
    """Five images at two depths, and what is none."""
    root = tmp_path / "images"
    for number, data in enumerate(IMAGES):
        path = root / ("deep/er" if number % 2 else ".") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (root / "notes.md").write_text("x")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "6.png").write_bytes(IMAGES[0])
    return root


def read(source):
    return [item for unit in find_units(str(source)) for item in read_unit(unit)]


def test_a_folder_is_read_in_the_order_of_its_paths(folder):
    found = read(folder)
    names = [key.removeprefix(f"{folder}/") for key, _ in found]
    assert names == ["0.png", "2.png", "4.png", "deep/er/1.png", "deep/er/3.png"]
    assert [data for _, data in found] == [IMAGES[number] for number in (0, 2, 4, 1, 3)]


def test_linked_folders_are_read(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "5.png").write_bytes(IMAGES[0])
    (folder / "linked").symlink_to(other, target_is_directory=True)
    (folder / "deep" / "back").symlink_to(folder, target_is_directory=True)
    names = ["0.png", "2.png", "4.png", "deep/er/1.png", "deep/er/3.png", "linked/5.png"]
    assert [key for key, _ in read(folder)] == [f"{folder}/{name}" for name in names]
    assert [key for key, _ in read(f"{folder}/l*/*.png")] == [f"{folder}/linked/5.png"]


def test_a_folder_that_cannot_be_read_is_an_error(folder, monkeypatch):
    scan = os.scandir

    def scan_unlocked(path):
        if str(path).endswith("er"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scan_unlocked)
    with pytest.raises(DataError, match=r"cannot read the folder .*er: Permission denied"):
        find_units(str(folder))


def test_names_may_be_patterns_or_no_utf_8(folder, tmp_path):
    """And a job's list of them is read back as it was."""
    strange = folder.rename(tmp_path / "photos [2024]")
    (strange / "0.png").rename(strange / os.fsdecode(b"K\xe4fer.png"))
    (unit,) = find_units(str(strange))
    pq.write_table(pa.Table.from_pylist([unit.to_row()]), tmp_path / "units.parquet")
    (row,) = pq.read_table(tmp_path / "units.parquet").to_pylist()
    assert units.Unit.from_row(row) == unit
    assert sorted(data for _, data in read_unit(unit)) == sorted(IMAGES)


def test_local_names_may_have_the_sign_of_fsspec_s_chained_urls(folder, tmp_path):
    odd = folder.rename(tmp_path / "dir::x")
    (odd / "0.png").rename(odd / "a::b.png")
    write_tar(odd / "s::t.tar.gz", ["x.png"], "w:gz")
    pq.write_table(pa.table({"img": IMAGES[:1], "key": ["p"]}), odd / "q::r.parquet")
    (odd / "list.txt").write_text(f"{odd}/a::b.png\n")
    expected = {f"{odd}/s::t.tar.gz/x.png": IMAGES[0], "p": IMAGES[0], f"{odd}/a::b.png": IMAGES[0]}
    assert expected.items() <= dict(read(odd)).items()
    for source in ("a::b.png", "?::b.png", "list.txt"):
        assert read(odd / source) == [(f"{odd}/a::b.png", IMAGES[0])]


@pytest.mark.parametrize("error", [ConnectionResetError(), TimeoutError(), OSError(errno.EIO, "I/O error")])
def test_what_may_pass_is_no_answer(folder, monkeypatch, error):
    """The unit stays undone, so that the same command reads it again."""
    write_tar(folder / "s.tar", ["x.png"])
    files, archive = sorted(find_units(str(folder)), key=lambda unit: unit.kind)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(LocalFileSystem, "open", fail)
    for unit in (files, archive):
        with pytest.raises(DataError, match=r"(png|tar) cannot be read now"):
            list(read_unit(unit))


def test_many_files_are_several_units(folder, monkeypatch):
    monkeypatch.setattr(units, "PATHS", 2)
    assert [unit.images for unit in find_units(str(folder))] == [2, 2, 1]


def test_a_pattern_and_a_list(folder, tmp_path):
    assert [key for key, _ in read(f"{folder}/*.png")] == [f"{folder}/{number}.png" for number in (0, 2, 4)]
    listed = tmp_path / "list.txt"
    listed.write_text(f"{folder}/4.png\n\n{folder}/missing.png\n{folder}/0.png\n")
    found = read(listed)
    assert [key for key, _ in found] == [f"{folder}/{name}.png" for name in ("4", "missing", "0")]
    assert isinstance(found[1][1], ImageError)


def test_every_path_of_a_list_is_taken_whatever_its_ending(folder, tmp_path):
    (folder / "0.png").rename(folder / "photo")
    write_tar(folder / "s.tar", ["x.png"])
    listed = tmp_path / "list.txt"
    listed.write_text(f"{folder}/photo\n{folder}/s.tar\n{folder}/notes.md\n{folder}/2.png\n", encoding="utf-8-sig")
    assert dict(read(listed)) == {
        f"{folder}/photo": IMAGES[0],
        f"{folder}/s.tar/x.png": IMAGES[0],
        f"{folder}/notes.md": b"x",
        f"{folder}/2.png": IMAGES[2],
    }


def test_relative_paths_are_those_of_where_the_job_was_begun(folder, tmp_path, monkeypatch):
    """So that it can be gone on with from another folder."""
    (tmp_path / "list.txt").write_text("images/0.png\nmemory://bucket/b/0.png\n")
    write_tar(folder / "s.tar", ["x.png"])
    monkeypatch.chdir(tmp_path)
    sources = ("list.txt", "images", "images/0.png", "images/*.png", "images/s.tar")
    found = [path for source in sources for unit in find_units(source) for path in unit.paths]
    assert found[:2] == [f"{folder}/0.png", "memory://bucket/b/0.png"]
    assert all(path.startswith(f"{folder}/") for path in found[2:])


@pytest.mark.parametrize(("ending", "mode"), [("tar", "w"), ("tar.gz", "w:gz")])
def test_archives(tmp_path, ending, mode):
    path = tmp_path / f"shard.{ending}"
    write_tar(path, ["a.png", "b/c.PNG", "a.json"], mode)
    (unit,) = find_units(str(path))
    assert unit.images is None
    assert list(read_unit(unit)) == [(f"{path}/a.png", IMAGES[0]), (f"{path}/b/c.PNG", IMAGES[1])]


def test_an_archive_that_ends_too_early_gives_what_was_before_and_an_error(tmp_path):
    path = tmp_path / "shard.tar"
    write_tar(path, [f"{number}.png" for number in range(5)])
    path.write_bytes(path.read_bytes()[: 512 + len(IMAGES[0]) + 1000])
    first, *_, last = read(path)
    assert first == (f"{path}/0.png", IMAGES[0])
    assert last[0] == str(path)
    assert "cannot be read further" in str(last[1])


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data, start: data[:start] + b"\xff" * 10 + data[start + 10 :], f"{DAMAGED}: bad checksum"),
        (lambda data, start: data[: start + 100], f"{DAMAGED}: truncated header"),
        (lambda data, start: data[:start], "the zeros at its end are missing"),
        (lambda data, start: data[:start] + bytes(1024) + b"x" * 512, f"{DAMAGED}: invalid header"),
    ],
    ids=["damaged", "cut in a header", "cut between members", "other data after the end"],
)
def test_a_damaged_archive_gives_what_was_before_and_an_error(tmp_path, ending, change, message):
    """At the third header, wherever tarfile would take the damage for the archive's end."""
    whole, path = tmp_path / "whole.tar", tmp_path / f"shard.{ending}"
    write_tar(whole, [f"{number}.png" for number in range(5)])
    with tarfile.open(whole) as archive:
        start = archive.getmembers()[2].offset
    data = change(whole.read_bytes(), start)
    path.write_bytes(gzip.compress(data) if ending == "tar.gz" else data)
    *before, (key, error) = read(path)
    assert before == [(f"{path}/{number}.png", IMAGES[number]) for number in range(2)]
    assert key == str(path)
    assert f"{path} cannot be read further: ReadError: {message}" in str(error)


@pytest.mark.parametrize(("ending", "mode"), [("tar", "w"), ("tar.gz", "w:gz")])
def test_archives_one_after_the_other_in_a_file(tmp_path, ending, mode):
    path = tmp_path / f"shard.{ending}"
    write_tar(path, [f"{number}.png" for number in range(5)], mode)
    path.write_bytes(path.read_bytes() * 2)
    assert [data for _, data in read(path)] == IMAGES * 2


def test_an_archive_without_images_has_no_rows(tmp_path):
    write_tar(tmp_path / "shard.tar", [])
    assert read(tmp_path / "shard.tar") == []


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_a_link_in_an_archive_is_an_error(tmp_path, kind):
    path = tmp_path / "shard.tar"
    write_tar(path, ["a.png"])
    with tarfile.open(path, "a") as archive:
        for name in ("b.png", "b.txt"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "a.png"
            archive.addfile(link)
    first, (key, error) = read(path)
    assert first == (f"{path}/a.png", IMAGES[0])
    assert key == f"{path}/b.png"
    assert "is a link, which is not followed" in str(error)


def test_hidden_members_of_an_archive_are_left_out(tmp_path):
    """As macOS packs them, one for each image."""
    write_tar(tmp_path / "shard.tar", ["a.png", "._a.png", "__MACOSX/a.png", ".cache/b.png"])
    assert read(tmp_path / "shard.tar") == [(f"{tmp_path}/shard.tar/a.png", IMAGES[0])]


def test_a_path_that_no_second_try_mends_is_an_error_of_its_image(folder, tmp_path):
    (folder / "loop.png").symlink_to("loop.png")
    (tmp_path / "list.txt").write_text(f"{folder}/loop.png\n{folder}/{'long' * 100}.png\n{folder}/0.png\n")
    loop, too_long, image = read(tmp_path / "list.txt")
    assert [type(found[1]) for found in (loop, too_long, image)] == [ImageError, ImageError, bytes]


def test_a_row_without_a_key_is_named_by_its_number(tmp_path):
    pq.write_table(pa.table({"img": IMAGES[:2], "key": ["a", None]}), tmp_path / "rows.parquet")
    assert [key for key, _ in read(tmp_path / "rows.parquet")] == ["a", f"{tmp_path}/rows.parquet row 1"]


def test_each_row_group_of_a_parquet_file_is_a_unit(tmp_path):
    path = tmp_path / "rows.parquet"
    column = [{"bytes": data, "path": None} for data in IMAGES[:3]] + [None]
    pq.write_table(pa.table({"image": column}), path, row_group_size=2)
    assert [unit.images for unit in find_units(str(path))] == [2, 2]
    found = read(path)
    assert [key for key, _ in found] == [f"{path} row {number}" for number in range(4)]
    assert [data for _, data in found[:3]] == IMAGES[:3]
    assert str(found[3][1]) == "the row holds no image bytes"
    pq.write_table(pa.table({"img": IMAGES, "key": list("abcde")}), path)
    assert read(path) == list(zip("abcde", IMAGES, strict=True))
    pq.write_table(pa.table({"pixels": IMAGES}), path)
    assert "it has no column img or image; it has pixels" in str(read(path)[0][1])


def test_a_parquet_file_that_cannot_be_read_is_named(tmp_path):
    pq.write_table(pa.table({"img": IMAGES}), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"PAR1, but no more")
    with pytest.raises(DataError, match=r"b\.parquet cannot be read: ArrowInvalid"):
        find_units(str(tmp_path))


def test_another_file_system(folder):
    system = fsspec.filesystem("memory")
    system.put(f"{folder}/0.png", "/bucket/a/0.png")
    write_tar(folder / "s.tar", ["x.png"])
    system.put(f"{folder}/s.tar", "/bucket/a/s.tar")
    assert read("memory://bucket/a") == [("memory:///bucket/a/s.tar/x.png", IMAGES[0]), ("memory:///bucket/a/0.png", IMAGES[0])]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "nowhere does not exist"),
        ("nowhere/*.png", "has no images; expected files with endings"),
        ("nowhere.txt", "nowhere.txt cannot be read: FileNotFoundError"),
        ("warp://bucket/x", "warp://bucket/x cannot be read: ValueError: Protocol not known: warp"),
    ],
)
def test_what_is_not_there(source, message):
    with pytest.raises(DataError, match=message.replace("*", r"\*")):
        find_units(source)
