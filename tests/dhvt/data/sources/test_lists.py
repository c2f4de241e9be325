import pytest

from dhvt.data.sources import open_dataset
from dhvt.errors import DataError


def write(root, *lines):
    path = root / "clipart_train.txt"
    path.write_bytes("\n".join(lines).encode())
    return path


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["pics/001.jpg 0", "pics/002.jpg 1"], r"line 2 gives label 1 to pics, which has label 0; a class is named"),
        (
            ["clipart/cat/1.jpg 1", "clipart/dog/1.jpg 2", "real/cat/1.jpg 11"],
            r"line 3 gives label 11 to cat, which has label 1; .*: correct the label, or put each class's images",
        ),
    ],
)
def test_a_folder_with_two_labels_is_refused(tmp_path, lines, message):
    """They were two classes of one name."""
    with pytest.raises(DataError, match=message):
        open_dataset(write(tmp_path, *lines), "train")


def test_labels_that_are_identifiers_are_refused(tmp_path):
    with pytest.raises(DataError, match="has labels from 7 to 1000000000, but only 2 different ones"):
        open_dataset(write(tmp_path, "a/cat/1.jpg 1000000000", "a/dog/1.jpg 7"), "train")


@pytest.mark.parametrize(
    "lines",
    [
        ["clipart/cat/1.jpg 0", "clipart/dog/2.jpg 1", "", ""],
        ["clipart/cat/1.jpg 0", " ", "clipart/dog/2.jpg 1\r"],
        ["\ufeffclipart/cat/1.jpg 0", "clipart/dog/2.jpg 1"],
    ],
)
def test_empty_lines_and_a_byte_order_mark_are_ignored(tmp_path, lines):
    source = open_dataset(write(tmp_path, *lines), "train")
    assert [source.name(index) for index in range(len(source))] == ["clipart/cat/1.jpg", "clipart/dog/2.jpg"]
    assert source.classes == ("cat", "dog")


@pytest.mark.parametrize("label", ["²", "٣", "-1", "1.0"])
def test_a_label_of_other_characters_than_digits_is_refused(tmp_path, label):
    line = f"clipart/dog/2.jpg {label}"
    for number, lines in ((1, [line]), (3, ["clipart/cat/1.jpg 0", "", line])):
        with pytest.raises(
            DataError, match=rf"line {number} is 'clipart/dog/2\.jpg {label}'; expected <domain>/<class>/<image> "
        ):
            open_dataset(write(tmp_path, *lines), "train")
