import pyarrow as pa

from dhvt.answers import answer_row, answer_schema
from dhvt.classifier import Predictions


def test_classes_whose_names_are_no_utf_8_can_be_written():
    """As folders may be called, which a class is named after."""
    found = Predictions([{"label": "caf\udce9", "score": 0.75}, {"label": "tea", "score": 0.25}])
    found.prediction_set = ["caf\udce9"]
    table = pa.Table.from_pylist([{"file": "a.png"} | answer_row(found)], schema=answer_schema({}))
    row = table.to_pylist()[0]
    assert (row["label"], row["labels"], row["prediction_set"]) == ("caf\\udce9", ["caf\\udce9", "tea"], ["caf\\udce9"])
