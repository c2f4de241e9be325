"""``metrics.jsonl``: the metrics of each validated epoch, one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dhvt.errors import TrainError


def append_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    """Appends a line; after an incomplete last line, which a crash may have left, it starts a new one.

    Raises:
        TrainError: the file cannot be written.
    """
    try:
        incomplete = path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n")
        with path.open("a", encoding="utf-8") as log:
            log.write("\n" * bool(incomplete) + json.dumps(dict(metrics)) + "\n")
    except OSError as error:
        raise TrainError(
            f"cannot write {path}: {error}; the last checkpoint is untouched, go on with the same command and --resume"
        ) from error


def read_history(path: Path) -> list[dict[str, Any]]:
    """The metrics of each epoch, in order; none of a missing file.

    Of several lines of one epoch the last counts. Epochs after that of the file's last line are omitted, because they are of
    an earlier run in the same folder. Incomplete lines are omitted.
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
