"""What ``dhvt classify`` writes: text, JSON lines, CSV or Parquet."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from dhvt.answers import answer_row, answer_schema, assessed
from dhvt.data.text import encodable
from dhvt.errors import ConfigError, ImageError
from dhvt.files import replacing

if TYPE_CHECKING:
    from dhvt.classifier import Predictions

_ROWS = 1000  # of Parquet that are written together
_ASSESSED = ("prediction_set", "prediction_set_note", "known", "p_known")
"""Columns of CSV for what is asked for beside the predictions."""


class Writer(Protocol):
    """Takes one image's predictions, or why there are none."""

    def __call__(self, path: Path, result: Predictions | ImageError) -> None: ...


def open_writer(output: str, parquet: Path | None, top_k: int, identity: Mapping[str, str]) -> AbstractContextManager[Writer]:
    """The writer to standard output in the format ``output``, or to the Parquet file where one is named.

    Args:
        identity: name, version and digest of the model.

    Raises:
        ConfigError: the Parquet file cannot be written.
    """
    if parquet is not None:
        return _open_parquet(parquet, identity)
    if output == "csv":
        return _open_csv(top_k)
    return _open_json(identity) if output == "json" else _open_text()


@contextmanager
def _open_text() -> Iterator[Writer]:
    def write(path: Path, result: Predictions | ImageError) -> None:
        name = encodable(str(path))
        if isinstance(result, ImageError):
            click.echo(f"{name}: {result}", err=True)
            return
        scores = ", ".join(f"{entry['label']} {entry['score']:.1%}" for entry in result)
        found = "" if result.prediction_set is None else f"; one of: {', '.join(result.prediction_set)}"
        note = "" if result.note is None else f" ({result.note})"
        unknown = f"; unknown (p = {result.p_known:.4g})" if result.known is False else ""
        click.echo(f"{name}: {scores}{found}{note}{unknown}")

    yield write


@contextmanager
def _open_json(identity: Mapping[str, str]) -> Iterator[Writer]:
    def write(path: Path, result: Predictions | ImageError) -> None:
        if isinstance(result, ImageError):
            click.echo(f"{encodable(str(path))}: {result}", err=True)
        else:
            click.echo(json.dumps({"file": str(path), **identity, "predictions": result, **assessed(result)}))

    yield write


@contextmanager
def _open_csv(top_k: int) -> Iterator[Writer]:
    """Columns as in the table that the server's page saves."""
    classes = [name for place in range(1, top_k + 1) for name in (f"label_{place}", f"score_{place}")]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["file", "label", "score", *classes[2:], *_ASSESSED, "error"])

    def write(path: Path, result: Predictions | ImageError) -> None:
        name = encodable(str(path))
        if isinstance(result, ImageError):
            writer.writerow([name, *[None] * (len(classes) + len(_ASSESSED)), encodable(str(result))])
            return
        cells: list[object] = [cell for entry in result for cell in (entry["label"], entry["score"])]
        cells += [None] * (len(classes) - len(cells))
        found = None if result.prediction_set is None else " | ".join(result.prediction_set)
        known = None if result.known is None else str(result.known).lower()
        writer.writerow([name, *cells, found, result.note, known, result.p_known, None])

    yield write


@contextmanager
def _open_parquet(path: Path, identity: Mapping[str, str]) -> Iterator[Writer]:
    """A file that is there when it is whole: it is written under another name, which an interruption removes."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ConfigError(f"--parquet needs pyarrow ({error}): pip install 'dhvt-serve[parquet]'") from error
    schema = answer_schema(identity)
    rows: list[dict[str, Any]] = []

    def flush() -> None:
        file.write_table(pa.Table.from_pylist(rows, schema))
        rows.clear()

    def write(path: Path, result: Predictions | ImageError) -> None:
        rows.append({"file": encodable(str(path))} | answer_row(result))
        if len(rows) == _ROWS:
            flush()

    try:
        with replacing(path) as temporary, pq.ParquetWriter(temporary, schema) as file:
            yield write
            flush()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"cannot write {path}: {reason}; choose another file for --parquet") from error
