"""The test for drift in a real server: real images sent to it, undisturbed and then mixed with disturbed ones.

    python benchmarks/drift.py … --out runs/drift          # gives the logits of the reference
    python benchmarks/drift_server.py --cifar cifar-10/ --out runs/drift --share 0.2
    python benchmarks/drift_server.py --cifar cifar-10/ --out runs/drift --replay --undisturbed 10000

The reference is one half of CIFAR-10's test images, in int8. ``--undisturbed`` images of the other half are sent, then
``--images`` of it, of which a share is disturbed. Prints one JSON line with the server's reports after each.

``--replay`` shows that a server's test is the one that ``drift.py`` simulates: one worker gets ``--undisturbed`` images one by
one, drawn with replacement from all test images, and what it answered goes through the test again, in this process.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from tqdm import tqdm

from dhvt import load_artifact, open_dataset
from dhvt.artifact import Artifact
from dhvt.confidence.drift import DriftTest
from dhvt.confidence.reference import Measured, Reference, write_reference
from dhvt.engines.settings import BUNDLED_MODEL
from dhvt.evaluation.calibration import softmax
from disturbances import disturb

PORT = 3917
CHUNK = 50


def send(files: Sequence[bytes]) -> None:
    """Sends images in requests of :data:`CHUNK`, each over a connection of its own, so that both workers get some."""
    for start in tqdm(range(0, len(files), CHUNK)):
        form = [("image", (f"{number}.png", data)) for number, data in enumerate(files[start : start + CHUNK])]
        httpx.post(f"http://127.0.0.1:{PORT}/classify/batch", files=form, timeout=120).raise_for_status()


def ask() -> dict[str, Any]:
    """The report, once the workers have written their states."""
    time.sleep(3)
    report: dict[str, Any] = httpx.get(f"http://127.0.0.1:{PORT}/drift").raise_for_status().json()
    return report


@contextmanager
def serving(model: Path, workers: int) -> Iterator[None]:
    """A server with the model in int8."""
    settings = {"DHVT_MODEL": str(model), "DHVT_ENGINE": "openvino:int8", "DHVT_WORKERS": str(workers)}
    command = [sys.executable, "-m", "bentoml", "serve", ".", "--host", "127.0.0.1", "--port", str(PORT)]
    root = Path(__file__).parents[1]
    server = subprocess.Popen(command, cwd=root, env=os.environ | settings, stdout=subprocess.DEVNULL, stderr=sys.stderr)
    try:
        httpx.Client(transport=httpx.HTTPTransport(retries=9)).get(f"http://127.0.0.1:{PORT}/readyz", timeout=60)
        yield
    finally:
        server.terminate()
        server.wait()


def replay(artifact: Artifact, measured: Measured, files: Sequence[bytes]) -> dict[str, Any]:
    """The server's evidence, and that of the same answers here."""
    classes = artifact.card.classes
    answers = np.empty((len(files), 2))
    with httpx.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=60) as client:
        for number, data in enumerate(tqdm(files)):
            best = client.post("/classify?top_k=1", files={"image": data}).raise_for_status().json()["predictions"][0]
            answers[number] = classes.index(best["label"]), best["score"]
    report = ask()
    test = DriftTest(measured.predicted, measured.top_score, len(classes), seed=1)  # of the first worker
    test.update(answers[:, 0].astype(int), answers[:, 1])
    here = {"images": test.images, "evidence": float(np.exp(test.log_evidence)), "alarm": test.alarm is not None}
    return {"server": {name: report[name] for name in ("images", "evidence", "alarm")}, "replayed": here}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/drift"))
    parser.add_argument("--kind", default="blurred")
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--undisturbed", type=int, default=2000)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--replay", action="store_true")
    parser.add_argument("--seed", type=int, default=1, help="of the order of the images")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(shutil.copytree(BUNDLED_MODEL, Path(folder) / "model"))
        artifact = load_artifact(model)
        source = open_dataset(args.cifar, "test", artifact.card.classes)
        order = np.random.default_rng(0).permutation(len(source))
        reference, others = (
            np.sort(order[: len(order) // 2]),
            np.random.default_rng(args.seed).permutation(order[len(order) // 2 :]),
        )
        scores = softmax(np.load(args.out / "none.npy")[reference] / artifact.card.temperature)
        labels = source.labels[reference]
        measured = dict.fromkeys(("fp32", "int8"), Measured.of(scores, labels))
        hashes = np.zeros(len(labels), np.uint64)
        write_reference(artifact, Reference(labels=labels.astype(np.int32), hashes=hashes, measured=measured), {})
        if args.replay:
            drawn = np.random.default_rng(args.seed).integers(0, len(source), args.undisturbed)
            with serving(model, 1):
                found = replay(artifact, measured["int8"], [source.read(index) for index in drawn])
            print(json.dumps({"benchmark": "drift_server", "kind": "replay", "seed": args.seed, **found}))
            return
        rng = np.random.default_rng(2)
        before = [source.read(index) for index in others[: args.undisturbed]]
        later = others[args.undisturbed : args.undisturbed + args.images]
        after = [disturb(source.read(index), args.kind if rng.random() < args.share else "none") for index in later]
        with serving(model, 2):
            send(before)
            quiet = ask()
            send(after)
            changed = ask()
    line = {
        "benchmark": "drift_server",
        "kind": args.kind,
        "share": args.share,
        "seed": args.seed,
        "workers": 2,
        "before": quiet,
        "after": changed,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
