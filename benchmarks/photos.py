"""120 ordinary photographs, 12 of each class of CIFAR-10: how a model trained on 32-pixel icons does on what people send.

    python benchmarks/photos.py --out runs/photos
    dhvt evaluate --data runs/photos --report runs/photos-report

Downloads what ``photos.csv`` names: images that others tried their own CIFAR-10 classifiers on, or show on their
pages, in public repositories. Chosen by eye before any model saw them: the first twelve per class that are photographs
(no drawings, no screenshots) in a format that is served, show the class, and are no second copies. They choose nothing:
neither augmentation nor how images are resized.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import sys
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

from tqdm import tqdm

MANIFEST = Path(__file__).with_suffix(".csv")


def download(row: dict[str, str], host: str, folder: Path) -> None:
    """One image to ``folder/LABEL/NAME``; one that is there already is left alone.

    Raises:
        OSError: it cannot be had, or is another image than the manifest's.
    """
    path = folder / row["label"] / (row["sha256"][:12] + Path(row["path"]).suffix.lower())
    if path.exists():
        return
    with urlopen(f"{host}/{row['repository']}/{row['commit']}/{quote(row['path'])}", timeout=60) as response:
        data = response.read()
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        raise OSError("it is another image now")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the images, one folder per class in it")
    parser.add_argument("--host", default="https://raw.githubusercontent.com", help="where the repositories are served")
    args = parser.parse_args()
    with MANIFEST.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    missing = 0
    for row in tqdm(rows, unit="image"):
        try:
            download(row, args.host, args.out)
        except OSError as error:
            missing += 1
            tqdm.write(f"{row['repository']}/{row['path']}: {error}", file=sys.stderr)
    if missing:
        raise SystemExit(f"{missing} of {len(rows)} images are missing; what is measured without them is another set")


if __name__ == "__main__":
    main()
