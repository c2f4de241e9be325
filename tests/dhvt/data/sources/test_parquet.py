import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dhvt.data.sources import list_splits, open_dataset
from dhvt.errors import DataError
from tests.conftest import draw, encode


def write(path, label=(0, 1), image=None, feature=None):
    """A Parquet file with two images, or the column ``image``; ``feature`` describes its labels as Hugging Face does."""
    columns = {"image": [encode(draw(index, 0, (8, 8))) for index in range(2)] if image is None else image, "label": label}
    metadata = None if feature is None else {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    return path


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["dog", "cat"], "label 0 is 'cat' in .*train-a.parquet and 'dog' in .*train-c.parquet; all files need the same"),
        (["cat", "dog", "ship"], "label 2 is without a name in .*train-a.parquet and 'ship' in .*train-c.parquet"),
        (None, "label 0 is 'cat' in .*train-a.parquet and without a name in .*train-c.parquet"),
    ],
)
def test_files_with_other_class_names_are_refused(tmp_path, names, message):
    """Their labels were read with the first file's names."""
    for name in ("a", "b"):
        write(tmp_path / f"train-{name}.parquet", feature={"names": ["cat", "dog"]})
    assert open_dataset(tmp_path, "train").classes == ("cat", "dog")
    write(tmp_path / "train-c.parquet", feature=names and {"names": names})
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path, "train")


@pytest.mark.parametrize("top", [50_001, 10**12])
def test_labels_that_are_identifiers_are_refused(tmp_path, top):
    """They made a class of every number up to the highest."""
    data = write(tmp_path / "a.parquet", [50_000, top])
    with pytest.raises(DataError, match=rf"labels from 50000 to {top}, but only 2 different ones and no class names; number"):
        open_dataset(data)
    assert len(open_dataset(write(data, [0, 999])).classes) == 1000  # few images of many classes
    assert len(open_dataset(write(data, [0, 1999], feature={"names": list(map(str, range(2000)))})).classes) == 2000


def test_numbers_are_placed_by_name_in_classes_that_are_numbers(tmp_path, caplog):
    """Folders of digits come in the order 0, 1, 10, 2; a label 2 was taken for the third of them."""
    classes = sorted(map(str, range(11)))
    data = write(tmp_path / "a.parquet", [2, 10])
    found = open_dataset(data, None, classes)
    assert [found.classes[label] for label in found.labels] == ["2", "10"]
    with pytest.raises(DataError, match="has the label 10, but there are the classes 0, 1, 2"):
        open_dataset(data, None, ["0", "1", "2"])
    assert not caplog.records
    assert open_dataset(write(data, [0, 1]), None, ["cat", "dog"]).classes == ("cat", "dog")
    assert "labels are numbers without names" in caplog.text


def test_the_last_word_of_a_file_is_its_split(tmp_path):
    """Both were the test split of a set whose name has the word."""
    for split in ("train", "test"):
        write(tmp_path / f"stress-test-{split}.parquet", feature={"names": ["cat", "dog"]})
    assert list_splits(tmp_path) == ("train", "test")
    assert len(open_dataset(tmp_path, "test")) == 2


@pytest.mark.parametrize("feature", [[{"names": ["cat", "dog"]}], {"feature": {"names": ["cat", "dog"]}, "_type": "List"}])
def test_several_labels_in_a_row_are_refused(tmp_path, feature):
    data = write(tmp_path / "a.parquet", [[0], [0, 1]], feature=feature)
    with pytest.raises(DataError, match=r"labels must be whole numbers from 0 or names, .*; found values of type list"):
        open_dataset(data)


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        ([7, 10**9], "int64"),
        ([{"bytes": 7}, {"bytes": 8}], "int64"),
        ([[1, 2], [3]], "list<.*int64>"),
        ([1.5, 2], "double"),
        ([None, None], "null"),
    ],
)
def test_an_image_column_without_bytes_is_refused(tmp_path, image, kind):
    """A number was read as so many zeros."""
    with pytest.raises(DataError, match=rf"column 'image': expected encoded images, as bytes or .*; found {kind}$"):
        open_dataset(write(tmp_path / "a.parquet", image=image))


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary(3), pa.binary_view()])
def test_every_kind_of_bytes_is_read(tmp_path, kind):
    data = write(tmp_path / "a.parquet", image=pa.array([b"one", b"two"], kind))
    assert [open_dataset(data).read(index) for index in range(2)] == [b"one", b"two"]
