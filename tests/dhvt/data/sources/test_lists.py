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
