"""The answers to many images as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dhvt.data.text import encodable
from dhvt.errors import ImageError

if TYPE_CHECKING:
    import pyarrow as pa

    from dhvt.classifier import Predictions


def answer_schema(identity: Mapping[str, str]) -> pa.Schema:
    """The columns of a Parquet file of answers.

    Args:
        identity: name, version and digest of the model, for the file's metadata.
    """
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    columns = {"file": text, "label": text, "score": number, "labels": pa.list_(text), "scores": pa.list_(number)}
    columns |= {"prediction_set": pa.list_(text), "prediction_set_note": text}
    columns |= {"known": pa.bool_(), "p_known": number, "error": text}
    return pa.schema(list(columns.items()), metadata=dict(identity))


def answer_row(result: Predictions | ImageError) -> dict[str, Any]:
    """The columns of one image, but for its file; absent ones are empty. Names of files and folders need not be UTF-8."""
    if isinstance(result, ImageError):
        return {"error": encodable(str(result))}
    labels, scores = [encodable(entry["label"]) for entry in result], [entry["score"] for entry in result]
    row = {"label": labels[0], "score": scores[0], "labels": labels, "scores": scores, **assessed(result)}
    if result.prediction_set is not None:
        row["prediction_set"] = [encodable(label) for label in result.prediction_set]
    return row


def assessed(result: Predictions) -> dict[str, Any]:
    """What was asked for beside the predictions, as the server's responses have it."""
    fields = {
        "prediction_set": result.prediction_set,
        "prediction_set_note": result.note,
        "p_known": result.p_known,
        "known": result.known,
    }
    return {name: value for name, value in fields.items() if value is not None}
