"""``metrics.jsonl``: what each validation of a training measured, a JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dhvt.errors import TrainError


def append_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    """Adds a line, below half a one that a crash may have left.

    Raises:
        TrainError: the file cannot be written.
    """
    try:
        torn = path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n")
        with path.open("a", encoding="utf-8") as log:
            log.write("\n" * bool(torn) + json.dumps(dict(metrics)) + "\n")
    except OSError as error:
        raise TrainError(
            f"cannot write {path}: {error}; the last checkpoint is untouched, go on with the same command and --resume"
        ) from error


def read_history(path: Path) -> list[dict[str, Any]]:
    """The last line of each epoch, in order, up to that of the last line: later ones are of a run before it, in the same
    folder. Lines that a crash tore are left out, and a missing file has none.
    """
    if not path.exists():
        return []
    rows: dict[int, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
            rows = {epoch: earlier for epoch, earlier in rows.items() if epoch < row["epoch"]} | {row["epoch"]: row}
        except (ValueError, TypeError, KeyError):
            continue
    return list(rows.values())
