"""What servers are asked in the benchmarks: one photograph, by wrk's clients that each wait for their answer."""

from __future__ import annotations

import io
import json
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SCRIPT = Path(__file__).with_name("upload.lua")
SIZE = (640, 480)
BOUNDARY = "dhvt-benchmark"


def sample_image() -> bytes:
    """A JPEG of 640×480: scikit-image's cat, or where that is not installed, drawn waves with noise."""
    try:
        from skimage.data import chelsea

        pixels = chelsea()
    except ImportError:
        y, x = np.mgrid[: SIZE[1], : SIZE[0]] / 40
        waves = np.stack([np.sin(x), np.cos(y), np.sin(x + y)], axis=-1)
        noise = np.random.default_rng(0).normal(scale=8, size=waves.shape)
        pixels = (127 + 90 * waves + noise).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize(SIZE, Image.Resampling.LANCZOS).save(file, "JPEG", quality=85)
    return file.getvalue()


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A request's body and its ``Content-Type``."""

    content_type: str
    body: bytes


def make_upload(kind: str, image: bytes) -> Upload:
    """``raw``: the file is the body; ``multipart``: a form with the file in the field ``image``, as ``curl -F`` sends."""
    if kind == "raw":
        return Upload(content_type="image/jpeg", body=image)
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="cat.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    )
    body = head.encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()
    return Upload(content_type=f"multipart/form-data; boundary={BOUNDARY}", body=body)


@dataclass(frozen=True, kw_only=True)
class Load:
    """What wrk counted: answers, those of them that were not 2xx or 3xx, requests that got none; of all answers the
    latency; and the processor time that wrk itself took."""

    answers: int
    not_ok: int
    failed: int
    seconds: float
    p50_ms: float
    p99_ms: float
    own_cpu_s: float


def require_wrk() -> None:
    """Ends the program with a hint where wrk is missing."""
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is needed to make the load: apt install wrk, or brew install wrk")


def closed_loop(url: str, upload: Upload, folder: Path, *, clients: int, seconds: float) -> Load:
    """Keeps ``clients`` connections busy: each sends its next request when it has its answer.

    Args:
        folder: where the body is put for wrk to read.
    """
    body = folder / "body"
    body.write_bytes(upload.body)
    command = ["wrk", "-t1", f"-c{clients}", f"-d{round(seconds)}s", "--timeout", "30s", "-s", str(SCRIPT), url]
    command += ["--", str(body), upload.content_type]
    before = _children_cpu_s()
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return Load(own_cpu_s=_children_cpu_s() - before, **json.loads(result.stdout.splitlines()[-1]))


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
