"""Does all of it work on this GPU? Run once on a machine that has one; prints Markdown to send back.

    python benchmarks/gpu_check.py                              the bundled model, by ONNX Runtime
    python benchmarks/gpu_check.py runs/mine/artifact --checkpoint runs/mine/ckpt.pt

With ``--checkpoint`` an engine is built in each precision, by each TensorRT that is installed, beside MODEL, which stays
as it is. Each must pass its self-test; then its speed is measured, and ``tests/gpu`` is run. The exit code is 1 when a
build or a test failed, when no engine served, or when there is no GPU.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from dhvt.artifact import load_artifact
from dhvt.engines import ENGINES, open_engine
from dhvt.engines.cache import versions
from dhvt.engines.settings import BUNDLED_MODEL
from dhvt.errors import DHVTError, EngineError
from dhvt.hardware.gpus import Gpu, read_driver
from timing import measure

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx", "onnxruntime-gpu", "cuda-bindings", "torch", "numpy")
PRECISIONS = ("fp32", "fp16", "bf16")
BATCH_SIZES = (1, 8, 32)
THREADS = 4
PASSED = "passes its self-test"
ROUNDS = 200


def find_gpu() -> Gpu | str:
    """The GPU that engines use, or why there is none."""
    try:
        from dhvt.engines import cuda
    except ImportError as error:
        return f"{error}; pip install 'dhvt-serve[gpu]'"
    return cuda.find_gpu()


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """In Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines) + "\n"


def describe_machine(gpu: Gpu) -> str:
    """The facts that results depend on."""
    driver = read_driver()
    rows = [("GPU", gpu.name), ("compute capability", gpu.compute_capability)]
    rows += [("driver", f"{driver.version}, CUDA {driver.cuda_version}" if driver else "unknown")]
    rows += [("system", f"{platform.platform()}, Python {platform.python_version()}")]
    rows += [(package, found) for package, found in zip(PACKAGES, versions(PACKAGES), strict=True) if found]
    return table(("what", "here"), rows)


def build_all(model: Path, checkpoint: Path, folder: Path) -> Iterator[tuple[str, Path | str]]:
    """What was built, and the artifact with it or why there is none."""
    for flavour in ("tensorrt", "tensorrt_rtx"):
        spec = find_spec(flavour)
        if spec is None or spec.origin is None:
            continue
        for precision in PRECISIONS:
            out = Path(shutil.copytree(model, folder / f"{flavour}-{precision}"))
            command = [sys.executable, str(ROOT / "export/to_trt.py"), str(checkpoint), "--out", str(out)]
            command += ["--flavour", flavour, "--precision", precision]
            result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            lines = (result.stderr or result.stdout).strip().splitlines()
            yield f"{flavour} {precision}", out if result.returncode == 0 else lines[-1]


def try_engine(path: Path, candidate: str) -> tuple[str, ...]:
    """The row of one engine: its self-test, and images/s and milliseconds by batch size."""
    artifact = load_artifact(path)
    try:
        engine = open_engine(artifact, candidate, threads=THREADS, max_batch_size=max(BATCH_SIZES)).engine
    except EngineError as error:
        return (candidate, str(error), *("",) * len(BATCH_SIZES))
    images = np.random.default_rng(0).integers(0, 256, (max(BATCH_SIZES), *artifact.card.preprocess.size, 3), dtype=np.uint8)
    cells = []
    for batch_size in BATCH_SIZES:
        speed = measure({candidate: engine.predict}, images[:batch_size], ROUNDS)[candidate]
        cells.append(f"{speed['images_per_s']:.0f} ({speed['median_ms']} / {speed['p99_ms']} ms)")
    return (candidate, PASSED, *cells)


def run_tests() -> tuple[str, bool]:
    """The last line of ``pytest tests/gpu``, and whether all went well."""
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-p", "no:cacheprovider"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = (result.stdout.strip() or result.stderr.strip()).splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return "\n".join([lines[-1] if lines else "pytest said nothing", *failed]), result.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=BUNDLED_MODEL)
    parser.add_argument("--checkpoint", type=Path, help="the ckpt.pt that MODEL was exported from")
    args = parser.parse_args()
    gpu = find_gpu()
    if isinstance(gpu, str):
        print(f"gpu_check: no GPU here that CUDA can use ({gpu}); run this where nvidia-smi shows one", file=sys.stderr)
        return 1
    print(describe_machine(gpu), flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for name, built in build_all(args.model, args.checkpoint, Path(temporary)) if args.checkpoint else ():
            if isinstance(built, str):
                rows.append((name, f"not built: {built}", *("",) * len(BATCH_SIZES)))
            else:
                rows.append((name, *try_engine(built, "tensorrt")[1:]))
        failed = any(row[1] != PASSED for row in rows)
        rows += [try_engine(args.model, name) for name, runtime in ENGINES.items() if runtime.on_gpu]
    head = tuple(f"batch {batch_size}: images/s (median / p99)" for batch_size in BATCH_SIZES)
    print(table(("engine", "result", *head), rows), flush=True)
    tests, well = run_tests()
    print(f"tests/gpu: {tests}")
    return 0 if well and not failed and any(row[1] == PASSED for row in rows) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DHVTError as error:
        sys.exit(f"gpu_check: {error}")
