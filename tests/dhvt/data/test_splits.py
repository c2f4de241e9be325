import hashlib
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dhvt.data.batches import iterate_batches
from dhvt.data.preprocess import Preprocess
from dhvt.data.sources import Subset, open_dataset
from dhvt.data.sources.cifar import PUBLISHED
from dhvt.data.splits import open_first_split, open_training_data, split_source
from dhvt.data.statistics import class_counts, describe_balance
from dhvt.errors import ConfigError, DataError
from dhvt.evaluation.metrics import Outputs, collect_outputs
from tests.conftest import CLASSES, draw, encode

CFG = Preprocess(size=(32, 32))


def write_parquet(path, rows, image="image", label="label", names=CLASSES):
    features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
    table = pa.table({image: [{"bytes": data, "path": None} for data, _ in rows], label: [row[1] for row in rows]})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if names else None
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


def rows(count=12):
    return [(encode(draw(index % 3, index)), index % 3) for index in range(count)]


def test_folder(image_folder):
    source = open_dataset(image_folder)
    assert source.classes == tuple(CLASSES)
    assert class_counts(source) == dict.fromkeys(CLASSES, 20)
    images, labels, indices = next(iterate_batches(source, CFG, 60))
    assert indices.tolist() == list(range(60))
    assert (images.shape, labels.tolist()) == ((60, 32, 32, 3), [0] * 20 + [1] * 20 + [2] * 20)
    assert source.locate(0).endswith("circle/00.png")


@pytest.mark.parametrize(("image", "label"), [("img", "label"), ("image", "fine_label")])
def test_parquet(tmp_path, image, label):
    source = open_dataset(write_parquet(tmp_path / "a.parquet", rows(), image, label))
    assert source.classes == tuple(CLASSES)
    assert source.labels.tolist() == [0, 1, 2] * 4
    assert source.read(4) == rows()[4][0]


def test_parquet_of_several_files_and_splits(tmp_path):
    write_parquet(tmp_path / "train-0.parquet", rows(12))
    write_parquet(tmp_path / "train-1.parquet", rows(3))
    write_parquet(tmp_path / "test-0.parquet", rows(6))
    source = open_dataset(tmp_path, "train")
    assert len(source) == 15
    assert source.locate(13).endswith("train-1.parquet row 1")
    assert len(open_dataset(tmp_path, "test")) == 6


@pytest.mark.parametrize("names", [("cifar10-train", "cifar10-test"), ("Train", "Testing"), ("set_training_0", "set_test_0")])
def test_a_parquet_files_part_may_stand_anywhere_in_its_name(tmp_path, names):
    for name, count in zip(names, (12, 6), strict=True):
        write_parquet(tmp_path / f"{name}.parquet", rows(count))
    assert [len(open_dataset(tmp_path, split)) for split in ("train", "test")] == [12, 6]
    (tmp_path / f"{names[0]}.parquet").rename(tmp_path / "other.parquet")
    with pytest.raises(DataError, match="no train split; it has the splits test"):
        open_dataset(tmp_path, "train")


def test_parquet_without_names_numbers_its_classes(tmp_path):
    assert open_dataset(write_parquet(tmp_path / "a.parquet", rows(), names=None)).classes == ("0", "1", "2")


def part_folders(root, **counts):
    """``root/<part>/<class>/<image>``, so many of each class."""
    for part, count in counts.items():
        for label, name in enumerate(CLASSES):
            (root / part / name).mkdir(parents=True)
            for seed in range(count):
                draw(label, seed).save(root / part / name / f"{seed}.png")
    return root


def assert_measured_on_training_images(path, images):
    """The test part is left alone: both parts are of the ``images`` to train on."""
    source = open_first_split(path, ["train"]).source
    parts = open_training_data(path, val_fraction=0.25)
    assert len(source) == images
    assert parts.val_fraction == 0.25
    places = [part.locate(index) for part in parts[:2] for index in range(len(part))]
    assert sorted(places) == sorted(source.locate(index) for index in range(images))


def test_folder_with_parts(tmp_path):
    part_folders(tmp_path, train=4, val=2, test=1)
    (tmp_path / ".cache").mkdir()
    assert len(open_dataset(tmp_path, "train")) == 12
    assert len(open_dataset(tmp_path, "val", CLASSES)) == 6
    assert len(open_dataset(tmp_path, "test", CLASSES)) == 3
    parts = open_training_data(tmp_path)
    assert (len(parts.train), len(parts.val), parts.val_fraction) == (12, 6, None)
    with pytest.raises(ConfigError, match=r"--val-fraction 0\.2 would hold nothing out, because there is a val split"):
        open_training_data(tmp_path, val_fraction=0.2)
    with pytest.raises(ConfigError, match="because there is --val"):
        open_training_data(tmp_path / "train", val=tmp_path, val_fraction=0.2)


@pytest.mark.parametrize(
    "parts",
    [{"train": 4}, {"train": 4, "test": 1}, {"training": 4, "test": 1}, {"Training": 4, "Testing": 1}, {"Train": 4, "TEST": 1}],
)
def test_without_a_validation_part_training_images_are_held_out(tmp_path, parts):
    part_folders(tmp_path, **parts)
    assert_measured_on_training_images(tmp_path, 12)
    with pytest.raises(DataError, match="has no val split; it has the splits train"):
        open_dataset(tmp_path, "val", CLASSES)


def test_parquet_with_a_test_part_holds_training_rows_out(tmp_path):
    write_parquet(tmp_path / "train-0.parquet", rows(24))
    write_parquet(tmp_path / "test-0.parquet", rows(6))
    assert_measured_on_training_images(tmp_path, 24)
    assert len(open_training_data(tmp_path / "train-0.parquet", val=tmp_path).val) == 6


def test_fewer_than_two_classes_are_refused(tmp_path):
    draw(0, 0).save((tmp_path / "only").mkdir() or tmp_path / "only" / "0.png")
    with pytest.raises(DataError, match="one class only, only; expected"):
        open_training_data(tmp_path)
    (tmp_path / "only").rename(tmp_path / "test")
    with pytest.raises(DataError, match="has no train split; it has test"):
        open_training_data(tmp_path)


def test_split_is_stratified_seeded_and_complete(image_folder):
    source = open_dataset(image_folder)
    train, val = split_source(source, 0.1, seed=3)
    assert class_counts(val) == dict.fromkeys(CLASSES, 2)
    places = [part.locate(index) for part in (train, val) for index in range(len(part))]
    assert sorted(places) == sorted(source.locate(index) for index in range(60))
    again = split_source(source, 0.1, seed=3)[1]
    other = split_source(source, 0.1, seed=4)[1]
    assert [val.locate(i) for i in range(6)] == [again.locate(i) for i in range(6)]
    assert [val.locate(i) for i in range(6)] != [other.locate(i) for i in range(6)]


def test_no_class_is_held_out_whole(image_folder):
    source = open_dataset(image_folder)
    few = Subset(source, np.array([*range(20), 20, 21, 40]))
    train, val = split_source(few, 0.9, seed=0)
    assert class_counts(val) == dict(zip(CLASSES, (18, 1, 0), strict=True))
    assert class_counts(train) == dict(zip(CLASSES, (2, 1, 1), strict=True))


def test_labels_that_are_names_are_numbered_in_their_order(tmp_path):
    named = [(data, ("dog", "cat", "ship")[label]) for data, label in rows()]
    path = write_parquet(tmp_path / "a.parquet", named, names=None)
    source = open_dataset(path)
    assert source.classes == ("cat", "dog", "ship")
    assert source.labels.tolist()[:3] == [1, 0, 2]
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "label", table["label"].dictionary_encode()), tmp_path / "categories.parquet")
    assert open_dataset(tmp_path / "categories.parquet").labels.tolist() == source.labels.tolist()
    of_model = open_dataset(path, classes=["ship", "bird", "dog", "cat"])
    assert of_model.classes == ("ship", "bird", "dog", "cat")
    assert of_model.labels.tolist()[:3] == [2, 3, 0]
    with pytest.raises(DataError, match="'label': ship is no class; they are cat, dog"):
        open_dataset(path, classes=["cat", "dog"])


def test_a_broken_image_is_named_or_skipped(tmp_path):
    entries = rows()
    entries[5] = (entries[5][0][: len(entries[5][0]) // 2], 2)
    entries[11] = (None, 2)
    source = open_dataset(write_parquet(tmp_path / "a.parquet", entries))
    with pytest.raises(DataError, match=r"a\.parquet row 5: the image is damaged"):
        list(iterate_batches(source, CFG, 4))
    messages = []
    batches = list(iterate_batches(source, CFG, 4, messages.append))
    assert [len(batch.labels) for batch in batches] == [4, 4, 2]
    assert np.concatenate([batch.labels for batch in batches]).tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 0, 1]
    assert np.concatenate([batch.indices for batch in batches]).tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert len(messages) == 2
    assert "row 11: the row holds no image bytes" in messages[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "absent", "does not exist"),
        (lambda root: root, "no images under it"),
        (lambda root: (root / "a.parquet").write_bytes(b"no") and root / "a.parquet", "as Parquet"),
        (lambda root: write_parquet(root / "a.parquet", rows(), image="photo"), "no column img or image"),
        (lambda root: write_parquet(root / "a.parquet", rows(), names=["one"]), "labels from 0 to 2, but there are 1 classes"),
        (lambda root: write_parquet(root / "a.parquet", []), "no rows"),
        (
            lambda root: write_parquet(root / "a.parquet", [(b"", 0.5)]),
            "whole numbers from 0 or names.*found values of type double",
        ),
        (lambda root: write_parquet(root / "a.parquet", [(b"", "cat")]), "'label': cat is no class; they are circle"),
        (lambda root: write_parquet(root / "a.parquet", [(b"", "cat"), (b"", None)], names=None), "found 1 rows without one"),
        (lambda root: write_parquet(root / "a.parquet", [(b"", 0), (b"", None)]), "found 1 rows without one"),
        (
            lambda root: [write_parquet(root / f"{name}.parquet", rows(3), image=name) for name in ("img", "image")] and root,
            "different columns",
        ),
    ],
)
def test_what_cannot_be_used_says_why(tmp_path, make, message):
    with pytest.raises(DataError, match=message):
        open_dataset(make(tmp_path))


def test_classes_of_another_model_are_refused(image_folder, tmp_path):
    with pytest.raises(DataError, match="does not know: stripes"):
        open_dataset(image_folder, classes=["circle", "square"])
    with pytest.raises(DataError, match="the model cat"):
        open_dataset(write_parquet(tmp_path / "a.parquet", rows()), classes=["cat", "dog", "ship"])


def domain_lists(root, part=slice(None), label=None):
    """A domain in DomainNet's layout; returns the training list."""
    for split, seeds in (("train", range(4)), ("test", range(4, 6))):
        lines = []
        for number, name in enumerate(CLASSES):
            (root / "clipart" / name).mkdir(parents=True, exist_ok=True)
            for seed in seeds:
                draw(number, seed).save(root / "clipart" / name / f"{seed}.png")
                lines.append(f"clipart/{name}/{seed}.png {number if label is None else label}\n")
        (root / f"clipart_{split}.txt").write_text("".join(lines[part]))
    return root / "clipart_train.txt"


@pytest.mark.parametrize("whole", [True, False])
def test_domainnet_lists(tmp_path, whole):
    path = domain_lists(tmp_path)
    path = tmp_path if whole else path
    source, val = open_dataset(path, "train"), open_dataset(path, "test")
    assert source.classes == val.classes == tuple(CLASSES)
    assert (len(source), len(val)) == (12, 6)
    assert source.locate(4).endswith("clipart/square/0.png")
    assert next(iterate_batches(source, CFG, 12)).labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert_measured_on_training_images(path, 12)


def test_domainnet_lists_that_are_wrong(tmp_path):
    with pytest.raises(DataError, match="gives label 0 to square"):
        open_dataset(domain_lists(tmp_path, label=0), "train")
    (tmp_path / "notes_train.txt").write_text("hello there\n")
    with pytest.raises(DataError, match="line 1 is 'hello there'; expected <domain>"):
        open_dataset(tmp_path / "notes_train.txt", "train")
    (tmp_path / "notes_train.txt").write_text("/a/circle/0.png 0\n")
    with pytest.raises(DataError, match=r"line 1 is '/a/circle/0\.png 0'; expected <domain>"):
        open_dataset(tmp_path / "notes_train.txt", "train")
    (tmp_path / "latin.txt").write_bytes(b"\xff\xfe clipart")
    with pytest.raises(DataError, match="cannot read"):
        open_dataset(tmp_path / "latin.txt")


def cifar_files(root, monkeypatch):
    """Small files in the layout of CIFAR-10's Python version, with sums as if they were the published ones."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    contents = {"batches.meta": {"label_names": CLASSES}}
    for file in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        contents[file] = {"data": rng.integers(0, 256, (3, 3072), dtype=np.uint8), "labels": [0, 1, 2]}
    published = PUBLISHED[folder.name]
    for file, content in contents.items():
        data = pickle.dumps(content)
        (folder / file).write_bytes(data)
        for sums in (published.train, published.test, published.meta):
            if file in sums:
                monkeypatch.setitem(sums, file, hashlib.md5(data).hexdigest())
    return folder


def test_cifar_as_torchvision_downloads_it(tmp_path, monkeypatch):
    folder = cifar_files(tmp_path, monkeypatch)
    assert_measured_on_training_images(tmp_path, 15)
    source = open_dataset(tmp_path, "train")
    assert (len(source), len(open_dataset(folder, "test"))) == (15, 3)
    assert source.classes == tuple(CLASSES)
    batch = pickle.loads((folder / "data_batch_1").read_bytes())
    pixels = batch["data"][1].reshape(3, 32, 32).transpose(1, 2, 0)
    assert np.array_equal(next(iterate_batches(source, CFG, 15)).images[1], pixels)
    encoded = source.read(1)  # the same bytes whatever compresses: a header, and the rows from below
    assert (encoded[:2], encoded[54:]) == (b"BM", pixels[::-1, :, ::-1].tobytes())
    with pytest.raises(DataError, match="has the splits train, test; choose one"):
        open_dataset(tmp_path)


def test_cifar_files_that_are_not_the_published_ones_are_not_unpickled(tmp_path, monkeypatch):
    folder = cifar_files(tmp_path, monkeypatch)
    (folder / "test_batch").write_bytes(pickle.dumps({"data": 1}))
    with pytest.raises(DataError, match="test_batch is not the published file: its MD5 sum is"):
        open_dataset(tmp_path, "test")
    (folder / "data_batch_3").unlink()
    with pytest.raises(DataError, match=r"cannot read .*data_batch_3"):
        open_dataset(tmp_path, "train")


def test_balance_is_described(tmp_path, image_folder):
    assert describe_balance(open_dataset(image_folder)) == "3 classes of 20 images"
    skewed = [(encode(draw(0, 1)), 0)] * 33 + [(encode(draw(1, 1)), 1)] * 3 + [(encode(draw(2, 1)), 2)] * 5
    line = describe_balance(open_dataset(write_parquet(tmp_path / "a.parquet", skewed)))
    assert "3 (square) to 33 (circle) images\ncircle has 11 times the images of square" in line
    line = describe_balance(open_dataset(write_parquet(tmp_path / "b.parquet", skewed[:36])))
    assert "1 of them have none and cannot be learned: stripes" in line


def test_a_share_without_images_joins_the_others(image_folder):
    source = open_dataset(image_folder)

    def predict(images):
        return np.zeros((len(images), 3), np.float32)

    shares = [collect_outputs(predict, Subset(source, np.arange(start, 3, 4)), CFG) for start in range(4)]
    assert [len(share.labels) for share in shares] == [1, 1, 1, 0]
    assert Outputs.join(shares).logits.shape == (3, 3)
