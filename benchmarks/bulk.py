"""``dhvt bulk``: its rate beside a plain loop, its memory, and two nodes beside one.

    python benchmarks/bulk.py --cifar cifar-10/ rate
    python benchmarks/bulk.py --cifar cifar-10/ memory
    sudo python benchmarks/bulk.py --cifar cifar-10/ nodes

The images are CIFAR-10's test images, each as often as it takes, in row groups of a Parquet file; the model is the bundled one.
Prints one JSON line for each command:

rate    images/s of ``dhvt bulk`` and of a loop over ``Classifier.classify_many`` on all processors, in turns. Of ``dhvt bulk``
        from the moment when a tenth of the files are written, so that starts do not count; decoding counts in both.
memory  the largest memory (PSS) of all processes together for 10,000 and for 200,000 images
nodes   the same rate on two nodes and on one (see two_nodes.py), in turns; and with one of two killed at half of the files,
        whether each image is in the output once
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from dhvt import Classifier, load_artifact, open_dataset
from dhvt.engines.settings import BUNDLED_MODEL
from dhvt.hardware.cpus import processor_name
from two_nodes import Node, two_nodes

GROUP = 250
PORT = 6379
RAY = {"RAY_worker_niceness": "0", "RAY_AUTH_MODE": "disabled"}
"""Environment of the cluster and its user."""


def write_images(cifar: Path, path: Path, count: int) -> list[bytes]:
    """A Parquet file of so many images; returns them."""
    source = open_dataset(cifar, "test", load_artifact(BUNDLED_MODEL).card.classes)
    images = [source.read(number % len(source)) for number in range(count)]
    keys = [f"{number}" for number in range(count)]
    pq.write_table(pa.table({"image": images, "key": keys}), path, row_group_size=GROUP)
    return images


def command(source: Path, out: Path, *more: str, engine: str = "openvino:fp32") -> list[str]:
    options = ["--model", str(BUNDLED_MODEL), "--engine", engine, "--out", str(out), "--top-k", "1", *more]
    return [sys.executable, "-m", "dhvt.cli", "bulk", *options, str(source)]


def rate_of(out: Path) -> float:
    """Images per second from the moment when a tenth of the files were written to the last."""
    times = sorted(path.stat().st_mtime for path in out.glob("part-*.parquet"))
    first = len(times) // 10
    return GROUP * (len(times) - 1 - first) / (times[-1] - times[first])


def measure_rate(cifar: Path, folder: Path, images: int, rounds: int, engine: str) -> dict[str, Any]:
    source = folder / "images.parquet"
    data = write_images(cifar, source, images)
    bulk, loop = [], []
    for number in range(rounds):
        out = folder / f"out-{number}"
        subprocess.run(command(source, out, engine=engine), check=True, stdout=subprocess.DEVNULL)
        bulk.append(rate_of(out))
        classifier = Classifier.load(engine=engine)
        start = time.perf_counter()
        assert sum(1 for _ in classifier.classify_many(data, 1)) == images
        loop.append(images / (time.perf_counter() - start))
    return {
        "images": images,
        "rounds": rounds,
        "bulk_images_per_s": median(bulk),
        "loop_images_per_s": median(loop),
        "ratio": median(one / other for one, other in zip(bulk, loop, strict=True)),
    }


class PeakMemory(threading.Thread):
    """The largest memory of a process and all its descendants, in MiB, each shared page counted once."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self._process, self.mib = psutil.Process(process), 0.0

    def run(self) -> None:
        while self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE:
            total = 0
            for process in [self._process, *self._process.children(recursive=True)]:
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            self.mib = max(self.mib, total / 2**20)
            time.sleep(1)


def measure_memory(cifar: Path, folder: Path, counts: tuple[int, int], engine: str) -> dict[str, Any]:
    found = {}
    for count in counts:
        source, out = folder / f"{count}.parquet", folder / f"out-{count}"
        write_images(cifar, source, count)
        process = subprocess.Popen(command(source, out, engine=engine), stdout=subprocess.DEVNULL)
        peak = PeakMemory(process.pid)
        peak.start()
        assert process.wait() == 0
        found[str(count)] = round(peak.mib)
    return {"peak_mib": found}


@contextmanager
def cluster(nodes: tuple[Node, ...]) -> Iterator[str]:
    """Ray on the nodes; gives its address."""
    address = f"{nodes[0].address}:{PORT}"
    environ = os.environ | RAY
    for number, node in enumerate(nodes):
        where = ["--head", "--port", str(PORT), "--include-dashboard", "false"] if not number else ["--address", address]
        options = ["--node-ip-address", node.address, "--num-cpus", "1", "--temp-dir", f"/tmp/{node.name}"]
        script = shutil.which("ray") or "ray"
        subprocess.run(node.command([script, "start", *where, *options]), check=True, capture_output=True, env=environ)
    try:
        yield address
    finally:
        for node in nodes:
            for process in node.processes():
                with suppress(psutil.Error):
                    psutil.Process(process).kill()


def run_on(nodes: tuple[Node, ...], source: Path, out: Path, engine: str) -> float:
    with cluster(nodes) as address:
        process = nodes[0].start(command(source, out, "--address", address, engine=engine), RAY, stdout=subprocess.DEVNULL)
        assert process.wait() == 0
    return rate_of(out)


def kill_in_the_middle(nodes: tuple[Node, Node], source: Path, out: Path, images: int, engine: str) -> dict[str, Any]:
    """Kills the second node at half of the files."""
    with cluster(nodes) as address:
        process = nodes[0].start(command(source, out, "--address", address, engine=engine), RAY, stdout=subprocess.DEVNULL)
        while len(list(out.glob("part-*.parquet"))) < images // GROUP // 2:
            assert process.poll() is None
            time.sleep(0.1)
        nodes[1].kill()
        status = process.wait()
    keys = pq.read_table(out, columns=["file"])["file"].to_pylist()
    expected = [str(number) for number in range(images)]
    return {"exit_code": status, "rows": len(keys), "each_once": sorted(keys, key=int) == expected}


def measure_nodes(cifar: Path, folder: Path, images: int, rounds: int, engine: str) -> dict[str, Any]:
    source = folder / "images.parquet"
    write_images(cifar, source, images)
    one, two = [], []
    for number in range(rounds):
        with two_nodes() as nodes:
            one.append(run_on(nodes[:1], source, folder / f"one-{number}", engine))
        with two_nodes() as nodes:
            two.append(run_on(nodes, source, folder / f"two-{number}", engine))
    with two_nodes() as nodes:
        killed = kill_in_the_middle(nodes, source, folder / "killed", images, engine)
    return {
        "images": images,
        "rounds": rounds,
        "one_images_per_s": median(one),
        "two_images_per_s": median(two),
        "ratio": median(second / first for first, second in zip(one, two, strict=True)),
        "killed": killed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["rate", "memory", "nodes"])
    parser.add_argument("--cifar", type=Path, required=True)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--engine", default="openvino:fp32")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.what == "rate":
            found = measure_rate(args.cifar, folder, args.images, args.rounds, args.engine)
        elif args.what == "memory":
            found = measure_memory(args.cifar, folder, (args.images // 20, args.images), args.engine)
        else:
            found = measure_nodes(args.cifar, folder, args.images, args.rounds, args.engine)
    facts = {
        "benchmark": "bulk",
        "what": args.what,
        "engine": args.engine,
        "processor": processor_name(),
        "cores": psutil.cpu_count(),
    }
    print(json.dumps(facts | found))


if __name__ == "__main__":
    main()
