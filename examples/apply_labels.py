"""Copies the samples that people have labelled into class folders, from which ``dhvt train`` reads.

    python examples/apply_labels.py export.json SAMPLES labelled

``export.json`` is Label Studio's export as JSON; ``SAMPLES`` the folder in ``DHVT_SAMPLE_FOLDER``. Tasks that were skipped or
not labelled stay out: a prediction of the model is no label.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any


def find_label(task: dict[str, Any]) -> str | None:
    """Returns the class that the latest annotation chose."""
    for annotation in reversed(task["annotations"]):
        for result in annotation["result"]:
            if result["type"] == "choices" and not annotation.get("was_cancelled"):
                choice: str = result["value"]["choices"][0]
                return choice
    return None


def main() -> None:
    """Copies the files, and prints how many."""
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    export, samples, target = map(Path, sys.argv[1:])
    copied = 0
    tasks = json.loads(export.read_text(encoding="utf-8"))
    for task in tasks:
        label = find_label(task)
        if label is None:
            continue
        source = (samples / task["data"]["file"]).resolve()
        if not source.is_relative_to(samples.resolve()) or "/" in label or label.startswith("."):
            sys.exit(f"unexpected file or class in {export}: {task['data']['file']!r}, {label!r}")
        (target / label).mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target / label / source.name)
        copied += 1
    print(f"{copied} of {len(tasks)} images are in {target}")


if __name__ == "__main__":
    main()
