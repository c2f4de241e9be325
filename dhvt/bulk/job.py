"""A bulk job's folder: what is to be done, and what of it is done.

DEST/part-000000.parquet   the rows of unit 0, there whole or not at all
DEST/_job/job.json         the model, what is asked of it, and where the images come from
DEST/_job/units.parquet    the units, listed once, so that the job is the same however often it is begun
DEST/_job/summary.json     what was found, once it is finished
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dhvt.bulk.units import Unit, find_units
from dhvt.errors import ConfigError
from dhvt.files import replacing

_JOB = "_job"  # readers of Parquet data sets skip names that begin with an underscore
_PART = "part-{:06d}.parquet"
_SAME = ("digest", "source", "asked")
"""What a job that is gone on with must have in common with the one before."""


class BulkJob:
    """The job in a folder, begun or gone on with.

    Args:
        dest: the folder; it is made.
        identity: the model's ``model``, ``version`` and ``digest``, the ``source``, and what is ``asked``: plain values.

    Raises:
        ConfigError: the folder has another job, or something else, or cannot be written to.
        DataError: there is no image.
    """

    def __init__(self, dest: Path, identity: Mapping[str, Any]) -> None:
        self.dest = dest
        try:
            self._begin(json.loads(json.dumps(identity)))
        except OSError as error:
            raise ConfigError(f"cannot write {dest}: {error.strerror or error}; choose another --out") from error

    def _begin(self, identity: dict[str, Any]) -> None:
        folder = self.dest / _JOB
        record, listing = folder / "job.json", folder / "units.parquet"
        if record.exists():
            _require_same(json.loads(record.read_text()), identity, self.dest)
            rows = pq.read_table(listing).to_pylist()
            self.units: Sequence[Unit] = [Unit.from_row(row) for row in rows]
            return
        if self.dest.exists() and any(entry.name != _JOB for entry in self.dest.iterdir()):
            raise ConfigError(f"{self.dest} has other files and no bulk job; choose another --out")
        self.units = find_units(identity["source"])
        folder.mkdir(parents=True, exist_ok=True)
        rows = [unit.to_row() for unit in self.units]
        with replacing(listing) as temporary:
            pq.write_table(pa.Table.from_pylist(rows), temporary)
        with replacing(record) as temporary:  # last: with it the job has begun
            temporary.write_text(json.dumps(identity, indent=1) + "\n")

    def path(self, unit: int) -> Path:
        """The file of a unit's rows."""
        return self.dest / _PART.format(unit)

    def missing(self) -> list[int]:
        """The units that are to be done."""
        return [number for number in range(len(self.units)) if not self.path(number).exists()]

    def write(self, unit: int, table: pa.Table) -> None:
        """Writes a unit's rows.

        Raises:
            ConfigError: they cannot be written.
        """
        with _writing(self.path(unit)) as temporary:
            pq.write_table(table, temporary)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Writes what was found.

        Raises:
            ConfigError: it cannot be written.
        """
        with _writing(self.dest / _JOB / "summary.json") as temporary:
            temporary.write_text(json.dumps(summary, indent=1) + "\n")


def _require_same(before: Mapping[str, Any], now: Mapping[str, Any], dest: Path) -> None:
    for name in _SAME:
        if before.get(name) != now[name]:
            raise ConfigError(
                f"{dest} has a job with another {name}: {before.get(name)}, not {now[name]}; choose another --out, or delete it"
            )


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """As :func:`~dhvt.files.replacing`; a full disk, as any error of it, is one line."""
    try:
        with replacing(path) as temporary:
            yield temporary
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror or error}; make room, and the same command goes on with the job"
        ) from error
