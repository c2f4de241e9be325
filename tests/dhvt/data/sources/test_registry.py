import builtins
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dhvt.data.sources import list_splits, open_dataset
from dhvt.data.splits import WHOLE, open_test_data
from dhvt.errors import DataError
from tests.conftest import CLASSES, draw, encode


def write_splits(root, kind, *splits):
    """Two images of each class in each split, as class folders or Parquet files."""
    for split in splits:
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for seed in range(2):
                draw(label, seed).save(root / split / name / f"{seed}.png")
        if kind == "parquet":
            source = open_dataset(root / split)
            table = pa.table({"image": [source.read(index) for index in range(len(source))], "label": source.labels})
            metadata = {"huggingface": json.dumps({"info": {"features": {"label": {"names": CLASSES}}}})}
            (root / "files").mkdir(exist_ok=True)
            pq.write_table(table.replace_schema_metadata(metadata), root / "files" / f"{split}-0.parquet")
    return root / "files" if kind == "parquet" else root


@pytest.mark.parametrize("kind", ["folders", "parquet"])
@pytest.mark.parametrize("splits", [("train", "val"), ("training", "validation"), ("Train", "dev")])
def test_no_split_stands_in_for_another(tmp_path, kind, splits):
    """The test split of data without one was its validation images, or all."""
    data = write_splits(tmp_path, kind, *splits)
    assert list_splits(data) == ("train", "val")
    with pytest.raises(DataError, match="has no test split; it has the splits train, val"):
        open_dataset(data, "test")
    with pytest.raises(DataError, match="has the splits train, val; choose one of them"):
        open_dataset(data)
    with pytest.raises(DataError, match="there is no split 'holdout'; expected one of train, val, test"):
        open_dataset(data, "holdout")
    with pytest.raises(DataError, match="has no test split; it has train, val; choose one with --split"):
        open_test_data(data)
    assert len(open_dataset(data, "val")) == len(open_dataset(data, splits[1])) == 6
    assert open_test_data(data, "val").split == "val"


def test_data_without_splits_is_opened_without_one(image_folder):
    assert list_splits(image_folder) == ()
    with pytest.raises(DataError, match="has no train split; it has no splits; open it without one"):
        open_dataset(image_folder, "train")


@pytest.mark.parametrize("kind", ["folders", "parquet"])
def test_the_images_to_measure_on_keep_the_name_of_their_split(tmp_path, kind):
    data = write_splits(tmp_path, kind, "train", "val", "test")
    assert open_test_data(data).split == "test"
    single = data / "val-0.parquet" if kind == "parquet" else data / "val"
    assert open_test_data(single).split == "val"
    renamed = single.rename(tmp_path / "images.parquet")
    assert open_test_data(renamed).split == WHOLE


@pytest.mark.parametrize("images", [["a.png", "b.png"], [{"path": "a.png"}] * 2, [{"bytes": "a.png"}] * 2])
def test_a_parquet_column_without_image_bytes_is_refused(tmp_path, images):
    pq.write_table(pa.table({"image": images, "label": [0, 1]}), tmp_path / "images.parquet")
    with pytest.raises(DataError, match=r"column 'image': expected encoded images, as bytes .*; found "):
        open_dataset(tmp_path / "images.parquet")


def test_a_parquet_file_beside_splits_is_ignored_and_named(tmp_path, caplog):
    data = write_splits(tmp_path, "parquet", "train", "test")
    (data / "extra.parquet").write_bytes(b"PAR1")
    (data / "._train-0.parquet").write_bytes(b"junk")
    assert len(open_dataset(data, "train")) == 6
    assert caplog.messages == [f"{data}: ignored beside its splits: extra.parquet"]


def test_an_image_is_no_data_set(tmp_path):
    (tmp_path / "cat.jpg").write_bytes(encode(draw(0, 0), "JPEG"))
    with pytest.raises(DataError, match=r"cat\.jpg is not a data set that is understood; give a folder with"):
        open_dataset(tmp_path / "cat.jpg")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    data = write_splits(tmp_path, "parquet", "train")
    find = builtins.__import__

    def without_pyarrow(name, *arguments):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return find(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    with pytest.raises(DataError, match=r"is Parquet, which needs pyarrow: pip install 'dhvt-serve\[parquet\]'"):
        open_dataset(data, "train")
    assert len(open_dataset(tmp_path / "train")) == 6
