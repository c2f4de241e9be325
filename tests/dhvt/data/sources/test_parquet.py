import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dhvt.data.sources import open_dataset
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
