"""Images/s of ``POST /classify/batch`` beside what decoding and the engine alone can do.

    python benchmarks/batch_route.py

One client sends one request with many photographs of 640×480, as a form and as a tar archive, and reads the answer as
JSON lines. In each round the ceiling (see benchmarks/ceiling.py) is measured before and after; figures are medians.
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
import tempfile
import time
from pathlib import Path
from statistics import median
from urllib.parse import urljoin

import httpx
from tqdm import trange

from contenders import CONTENDERS, measure_ceiling, running
from dhvt.engines.settings import BUNDLED_MODEL
from dhvt.hardware.cpus import available_cpus, processor_name
from load import BOUNDARY, Upload, make_upload, sample_image


def make_form(image: bytes, count: int) -> Upload:
    """A form with the image ``count`` times."""
    one = make_upload("multipart", image)
    end = f"--{BOUNDARY}--\r\n".encode()
    return Upload(content_type=one.content_type, body=one.body.removesuffix(end) * count + end)


def make_tar(image: bytes, count: int) -> Upload:
    """An archive with the image ``count`` times."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for index in range(count):
            member = tarfile.TarInfo(f"{index}.jpg")
            member.size = len(image)
            archive.addfile(member, io.BytesIO(image))
    return Upload(content_type="application/x-tar", body=buffer.getvalue())


def measure(url: str, upload: Upload, count: int) -> float:
    """Images/s of one request.

    Raises:
        RuntimeError: not every image was answered.
    """
    headers = {"Content-Type": upload.content_type, "Accept": "application/x-ndjson"}
    start = time.perf_counter()
    response = httpx.post(url, content=upload.body, headers=headers, timeout=600)
    seconds = time.perf_counter() - start
    answered = sum("predictions" in json.loads(line) for line in response.text.splitlines())
    if answered != count:
        raise RuntimeError(f"{answered} of {count} images were answered: {response.text[-300:]}")
    return count / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="in one request")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL, help="model folder; default: the bundled one")
    args = parser.parse_args()
    model, image = args.model.resolve(), sample_image()
    uploads = {"form": make_form(image, args.images), "tar": make_tar(image, args.images)}
    rates: dict[str, list[float]] = {name: [] for name in uploads}
    ceilings = [measure_ceiling(model, 3)["images_per_s"]]
    for _ in trange(args.rounds, desc="rounds"):
        single = CONTENDERS["dhvt (raw)"]
        with (
            tempfile.TemporaryDirectory() as folder,
            running(single, make_upload("raw", image), Path(folder), DHVT_MODEL=str(model)) as server,
        ):
            url = urljoin(server.url, "/classify/batch")
            measure(url, make_tar(image, 64), 64)
            for name, upload in uploads.items():
                rates[name].append(measure(url, upload, args.images))
        ceilings.append(measure_ceiling(model, 3)["images_per_s"])
    ceiling = median(ceilings)
    line = {
        "benchmark": "batch_route",
        "images": args.images,
        "images_per_s": {name: round(median(values), 1) for name, values in rates.items()},
        "ceiling_images_per_s": round(ceiling, 1),
        "fraction_of_ceiling": {name: round(median(values) / ceiling, 3) for name, values in rates.items()},
        "processor": processor_name(),
        "processors": available_cpus(),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
