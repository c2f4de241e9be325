import os
import shutil

import pytest

from dhvt.cli.found_images import find_images
from dhvt.data import decode, formats
from dhvt.data.batches import iterate_batches
from dhvt.data.inspection.unused import find_unused
from dhvt.data.preprocess import Preprocess
from dhvt.data.sources import list_splits, open_dataset
from dhvt.data.splits import open_training_data
from dhvt.errors import DataError
from tests.conftest import CLASSES, draw


def add_images(folder, count=2):
    """Drawn images in a folder that is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        draw(0, seed).save(folder / f"{seed}.png")
    return folder


def add_classes(folder, names=CLASSES, count=2):
    for name in names:
        add_images(folder / name, count)
    return folder


def test_hidden_files_and_folders_are_no_images(tmp_path):
    add_classes(tmp_path)
    expected = [path.name for path in sorted(tmp_path.rglob("*.png"))]
    add_images(tmp_path / "circle" / ".ipynb_checkpoints")
    add_images(tmp_path / "circle" / "@eaDir")
    add_images(tmp_path / "__MACOSX" / "circle")
    shutil.copy(tmp_path / "circle" / "0.png", tmp_path / "circle" / "._0.png")
    source = open_dataset(tmp_path)
    assert source.classes == tuple(CLASSES)
    assert [source.name(index).rpartition("/")[2] for index in range(len(source))] == expected


def test_linked_folders_are_read_and_a_link_to_one_above_ends(tmp_path):
    root = add_classes(tmp_path / "images")
    add_images(tmp_path / "disk" / "deep", 3)
    (root / "circle" / "more").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "up").symlink_to(root)
    source = open_dataset(root)
    assert [name for name in map(source.name, range(len(source))) if "more" in name] == [
        f"circle/more/deep/{number}.png" for number in range(3)
    ]
    used = [source.path(index) for index in range(len(source))]
    assert find_unused([root], used) == ([], [], [], [])
    assert find_images([str(root / "circle" / "more" / "deep")]) == [path for path in used if "more" in str(path)]


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    add_classes(tmp_path)
    add_images(tmp_path / "circle" / "locked")
    scan = os.scandir

    def scan_unlocked(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scan_unlocked)
    with pytest.raises(DataError, match=r"cannot read the folder .*locked: Permission denied"):
        open_dataset(tmp_path)


def test_jpegs_by_their_rarer_endings_are_taken_and_other_files_counted(tmp_path, caplog):
    add_classes(tmp_path, count=1)
    assert len(open_dataset(tmp_path)) == 3
    assert not caplog.messages
    for name in ("a.jfif", "b.JPE", "c.heic", "d.AVIF", "e.CR2", "f.cr2", "g.jxl", "labels.txt", ".hidden.txt"):
        shutil.copy(tmp_path / "circle" / "0.png", tmp_path / "circle" / name)
    assert len(open_dataset(tmp_path)) == 7
    images, others = caplog.messages
    assert "left out 3 images of formats that are not read: 2 .cr2 (a camera's RAW: convert it" in images
    assert "1 .jxl (JPEG XL" in images
    assert "left out 1 file with another ending" in others


def test_a_heic_is_an_image_of_the_data_where_it_cannot_be_decoded_too(tmp_path, monkeypatch):
    add_classes(tmp_path, count=1)
    draw(0, 1).save(tmp_path / "circle" / "photo.heic")
    without = tuple(name for name in formats.FORMATS if name != "HEIF")
    assert formats.describe_unread("photo.HEIC") is None
    for module in (formats, decode):
        monkeypatch.setattr(module, "FORMATS", without)
    assert formats.describe_unread("photo.HEIC") == "HEIC: pip install 'dhvt-serve[heif]'"
    with pytest.raises(DataError, match=r"photo\.heic: a HEIC image, which needs pillow-heif here: pip install"):
        list(iterate_batches(open_dataset(tmp_path), Preprocess(size=(32, 32)), 8))


def test_images_may_lie_deeper_in_a_class_folder_and_links_are_followed_once(tmp_path):
    add_classes(tmp_path / "all")
    add_images(tmp_path / "all" / "circle" / "more" / "still more")
    (tmp_path / "linked").mkdir()
    for name in CLASSES:
        (tmp_path / "linked" / name).symlink_to(tmp_path / "all" / name)
    for root in ("all", "linked"):
        source = open_dataset(tmp_path / root)
        assert source.labels.tolist() == [0] * 4 + [1] * 2 + [2] * 2
        assert [source.name(index) for index in range(4)] == [
            "circle/0.png", "circle/1.png", "circle/more/still more/0.png", "circle/more/still more/1.png"
        ]  # fmt: skip


def test_a_lone_split_beside_folders_of_images_is_refused(tmp_path):
    """Otherwise train and the others would be taken for the classes."""
    add_classes(tmp_path / "train")
    add_images(tmp_path / "from the web")
    for open_it in (open_dataset, list_splits, open_training_data):
        with pytest.raises(DataError, match=r"holds folders as a split does, beside .*from the web, which are no splits"):
            open_it(tmp_path)
    assert open_dataset(tmp_path / "train").classes == tuple(CLASSES)


def test_a_class_may_be_called_train(tmp_path):
    add_classes(tmp_path, ["bus", "car", "train"])
    assert list_splits(tmp_path) == ()
    assert open_training_data(tmp_path, val_fraction=0.5).train.classes == ("bus", "car", "train")


def test_folders_without_images_beside_a_split_do_not_matter(tmp_path):
    add_classes(tmp_path / "train")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "notes.json").write_text("{}")
    assert list_splits(tmp_path) == ("train",)


def test_other_images_beside_splits_are_ignored_and_named(tmp_path, caplog):
    add_classes(tmp_path / "train")
    add_classes(tmp_path / "test")
    add_images(tmp_path / "unlabelled")
    (tmp_path / "annotations").mkdir()
    assert open_dataset(tmp_path, "train").classes == tuple(CLASSES)
    assert caplog.messages == [f"{tmp_path}: ignored beside its splits: unlabelled"]


def test_splits_without_class_folders_are_no_classes(tmp_path):
    add_images(tmp_path / "train")
    add_images(tmp_path / "test")
    with pytest.raises(DataError, match="2 images lie directly in it"):
        open_training_data(tmp_path)


def test_two_folders_for_one_split_are_refused(tmp_path):
    for name in ("train", "val", "validation"):
        add_classes(tmp_path / name)
    with pytest.raises(DataError, match="has val and validation for its val split"):
        open_dataset(tmp_path, "val")
