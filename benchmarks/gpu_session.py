"""What to do with the first half hour on a GPU: all measurements, unattended, the most important ones first.

    python benchmarks/gpu_session.py --data cifar100/ --out session.jsonl --minutes 30
    python benchmarks/gpu_session.py --device cpu --small --out rehearsal.jsonl

Each step runs in a process of its own with a time limit, and its JSON line is written as soon as it ends, so that a machine
that goes away costs one step. A step that fails or takes too long leaves a line with its error, and the next one begins.
A session that is started again with the same --out goes on behind the last line. ``--only`` picks steps.

    versions      packages, driver, memory
    inference     DHVT-T in PyTorch: eager, compiled, CUDA graph; fp32 and fp16; images/s and ms by batch size
    train_step    a training step: eager, compiled, with AdamW in one kernel or not; the kernels that take longest
    augmentation  the share of the augmentation in a step
    onnx          ONNX Runtime, fp32 and fp16, any and fixed batch, with IOBinding and CUDA graph
    tests         pytest -m gpu, and benchmarks/gpu_check.py
    server        requests/s with 1, 4, 8 and 12 workers; needs wrk
    training      CIFAR-100 (--data) with the paper's recipe, as many of 300 epochs as the time that is left allows
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from gpu_steps import Line, Setting, augmentation, inference, onnx, train_step, versions  # noqa: E402  # of this folder


def run_command(command: list[str], seconds: float, **environment: str) -> Line:
    """A program's exit code, and the ends of what it printed."""
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=seconds, check=False
    )
    return {"code": result.returncode, "stdout": result.stdout[-3000:], "stderr": result.stderr[-1000:]}


def tests(setting: Setting) -> Line:
    pytest = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", "-p", "no:cacheprovider"]
    line = {"pytest": run_command(pytest, setting.seconds / 2)}
    line["gpu_check"] = run_command([sys.executable, "benchmarks/gpu_check.py"], setting.seconds / 2)
    return line


def server(setting: Setting) -> Line:
    if shutil.which("wrk") is None:
        raise RuntimeError("wrk is not installed here")
    line: Line = {}
    workers = (1,) if setting.small else (1, 4, 8, 12)
    for count in workers:
        clients = ["4"] if setting.small else ["64", "256"]
        command = [sys.executable, "benchmarks/servers.py", "--contenders", "dhvt (raw)", "--rounds", "1", "--tries", "1"]
        command += ["--clients", *clients, "--seconds", "2" if setting.small else "8"]
        line[f"{count} workers"] = run_command(command, setting.seconds / len(workers), DHVT_WORKERS=str(count))
    return line


def training(setting: Setting) -> Line:
    with tempfile.TemporaryDirectory() as folder:
        data = setting.data or _draw_data(Path(folder) / "data")
        command = [
            sys.executable,
            "-m",
            "dhvt.cli",
            "train",
            "--data",
            data,
            "--recipe",
            "cifar100",
            "--device",
            setting.device,
        ]
        command += [f for name, value in setting.model_options.items() for f in ("--model-option", f"{name}={value}")]
        command += ["--batch-size", "16"] if setting.small else []
        probe = Path(folder) / "probe"
        started = time.monotonic()
        run_command([*command, "--epochs", "2", "--out", str(probe)], setting.seconds)
        rows = [json.loads(row) for row in (probe / "metrics.jsonl").read_text().splitlines()]
        # The first epoch has the compilation in it; validation and saving count, so twice the second one's own time at most.
        left = setting.seconds - (time.monotonic() - started) - 60 * (not setting.small)
        epoch = rows[-1]["train_seconds"] - (rows[-2]["train_seconds"] if len(rows) > 1 else 0)
        epochs = max(min(int(left / (1.3 * epoch)), 2 if setting.small else 300), 1)
        out = setting.out.with_suffix("") / "run"
        shutil.rmtree(out, ignore_errors=True)
        result = run_command([*command, "--epochs", str(epochs), "--val-every", "20", "--out", str(out)], left + 60)
        log = [json.loads(row) for row in (out / "metrics.jsonl").read_text().splitlines()]
        return {"epochs": epochs, "of": 300, "probe": rows, "log": log[-3:], "result": result, "published_top1": 80.85}


def _draw_data(folder: Path) -> str:
    """A few images of noise, for a rehearsal."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in ("one", "two"):
        (folder / label).mkdir(parents=True)
        for number in range(20):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / label / f"{number}.png")
    return str(folder)


STEPS: dict[str, tuple[Callable[[Setting], Line], float]] = {
    "versions": (versions, 60),
    "inference": (inference, 240),
    "train_step": (train_step, 300),
    "augmentation": (augmentation, 60),
    "onnx": (onnx, 180),
    "tests": (tests, 240),
    "server": (server, 300),
    "training": (training, 1200),
}
"""By name: what it does, and the seconds that it may take; the last one takes all that is left."""


def run_session(args: argparse.Namespace) -> int:
    """Runs the steps that have no line yet; returns how many failed."""
    deadline, failed = time.monotonic() + 60 * args.minutes, 0
    args.out.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
    done = [json.loads(line)["step"] for line in args.out.read_text().splitlines()] if args.out.exists() else []
    for name in args.only or STEPS:
        left = deadline - time.monotonic()
        if name in done or left < 5:
            continue
        seconds = left - 5 if name == "training" else min(STEPS[name][1], left)
        command = [sys.executable, __file__, *sys.argv[1:], "--step", name, "--seconds", str(seconds)]
        started = time.monotonic()
        line: Line = {"step": name}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment
        )
        try:
            output, errors = process.communicate(timeout=seconds + 5)
            line |= json.loads(output.splitlines()[-1]) if process.returncode == 0 else {"error": errors[-2000:]}
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with all that it started
            process.communicate()
            line["error"] = f"took more than {seconds:.0f} s"
        line["seconds"] = round(time.monotonic() - started, 1)
        failed += "error" in line
        with args.out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="small models and few repetitions, to rehearse")
    parser.add_argument("--data", help="CIFAR-100, as dhvt train takes it; without it, the training is of drawn images")
    parser.add_argument("--out", type=Path, default=Path("gpu_session.jsonl"))
    parser.add_argument("--minutes", type=float, default=30, help="for all steps together")
    parser.add_argument("--only", nargs="+", choices=list(STEPS), metavar="STEP", help=f"of {', '.join(STEPS)}")
    parser.add_argument("--step", choices=list(STEPS), help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.step:
        return min(run_session(args), 1)
    setting = Setting(device=args.device, small=args.small, data=args.data, out=args.out, seconds=args.seconds)
    print(json.dumps(STEPS[args.step][0](setting)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
