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
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
PACKAGES = ("torch", "torchvision", "timm", "accelerate", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "bentoml")
Line = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What the session runs on, and how much.

    Args:
        small: sizes for a rehearsal.
        seconds: what the step may take.
    """

    device: str
    small: bool
    data: str | None
    out: Path
    seconds: float

    @property
    def variant(self) -> str:
        return "dhvt_tiny_cifar_patch4"

    @property
    def backend(self) -> str:
        """Of torch.compile; a rehearsal only traces."""
        return "eager" if self.small else "inductor"

    @property
    def model_options(self) -> Line:
        """Of a rehearsal's model."""
        return {"depth": 2, "embed_dim": 32} if self.small else {}


def versions(setting: Setting) -> Line:
    from importlib.metadata import PackageNotFoundError, version

    import torch

    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    line: Line = {"python": platform.python_version(), "packages": found, "processors": os.cpu_count()}
    if setting.device == "cuda":
        from dhvt.hardware.gpus import read_driver

        free, total = torch.cuda.mem_get_info()
        line |= {
            "gpu": torch.cuda.get_device_name(),
            "capability": torch.cuda.get_device_capability(),
            "cuda": torch.version.cuda,
        }
        line |= {"memory_bytes": total, "free_bytes": free, "driver": str(read_driver())}
    return line


def build_model(setting: Setting) -> Any:
    import torch

    from dhvt.model.factory import build, configure

    torch.manual_seed(0)
    config = configure(setting.variant, num_classes=100, options=setting.model_options)
    return build(setting.variant, config).to(setting.device)


def time_calls(call: Callable[[], Any], setting: Setting, calls: int = 50) -> float:
    """Median seconds of a call, the device's work included."""
    import torch

    wait = torch.cuda.synchronize if setting.device == "cuda" else lambda: None
    calls = 3 if setting.small else calls
    seconds = []
    for _ in range(calls + 3):
        wait()
        started = time.perf_counter()
        call()
        wait()
        seconds.append(time.perf_counter() - started)
    return median(seconds[3:])


def capture(call: Callable[[], Any]) -> Callable[[], Any]:
    """The call as a CUDA graph."""
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def inference(setting: Setting) -> Line:
    import torch

    from dhvt.data.preprocess import Preprocess
    from dhvt.model.inference import InferenceModel

    line: Line = {}
    precisions = {"fp32": torch.float32} | ({"fp16": torch.float16} if setting.device == "cuda" else {"bf16": torch.bfloat16})
    for precision, dtype in precisions.items():
        model = InferenceModel(build_model(setting), Preprocess(size=(32, 32))).to(setting.device).eval()
        for batch_size in (1, 32) if setting.small else (1, 32, 256):
            images = torch.randint(0, 256, (batch_size, 32, 32, 3), dtype=torch.uint8, device=setting.device)
            for name in ("eager", "compiled", *(["graph"] if setting.device == "cuda" else [])):
                with torch.inference_mode(), torch.autocast(setting.device, dtype, enabled=dtype is not torch.float32):
                    network = torch.compile(model, dynamic=False, backend=setting.backend) if name == "compiled" else model
                    run = lambda network=network, images=images: network(images)  # noqa: E731  # each with its own
                    seconds = time_calls(capture(run) if name == "graph" else run, setting)
                line[f"{name} {precision} batch {batch_size}"] = {
                    "images_per_s": round(batch_size / seconds, 1),
                    "ms": round(1e3 * seconds, 3),
                }
    return line


def make_trainer(setting: Setting, *, compiled: bool, recipe_name: str = "cifar100") -> tuple[Any, Any]:
    """A :class:`TrainState` and a batch for it."""
    import torch

    from dhvt.data.preprocess import Preprocess
    from dhvt.training.batch import TrainingBatch
    from dhvt.training.config import Recipe
    from dhvt.training.distributed import open_accelerator
    from dhvt.training.step import TrainState
    from dhvt.training.transforms import BatchTransform

    batch_size = 16 if setting.small else 512
    # Of whole images, whose augmentation is timed too; the preset may leave the epochs to a run.
    recipe = Recipe.preset(recipe_name, batch_size=batch_size, epochs=300, resolutions=((1.0, 1.0),))
    accelerator = open_accelerator(setting.device)
    transform = BatchTransform(recipe, Preprocess(size=(32, 32)), accelerator.device, num_classes=100, size_multiple=4)
    state = TrainState(build_model(setting).train(), recipe, accelerator, transform, steps_per_epoch=97)
    if compiled:
        state._forward = torch.compile(state._network, dynamic=False, backend=setting.backend)
    images = torch.randint(0, 256, (batch_size, 32, 32, 3), dtype=torch.uint8, device=accelerator.device)
    keys = torch.stack([torch.tensor([0, index, 0]) for index in range(batch_size)])
    return state, TrainingBatch(images, torch.randint(0, 100, (batch_size,), device=accelerator.device), keys, [])


def run_step(state: Any, batch: Any) -> None:
    if state.losses.is_due:
        state.losses.check()
    state.train_batch(batch)


def train_step(setting: Setting) -> Line:
    import torch
    from torch.profiler import ProfilerActivity, profile

    line: Line = {}
    for name, compiled, fused in (("eager", False, False), ("eager, fused AdamW", False, True), ("compiled", True, True)):
        state, batch = make_trainer(setting, compiled=compiled)
        for optimizer in state.optimizers:
            for group in optimizer.param_groups:
                group["fused"] = fused
        count = len(batch.labels)
        rounds = 2 if setting.small else 25

        def steps(state: Any = state, batch: Any = batch, rounds: int = rounds) -> None:
            for _ in range(rounds):  # without waiting in between, as in training
                run_step(state, batch)

        seconds = time_calls(steps, setting, calls=4) / rounds
        line[name] = {"images_per_s": round(count / seconds), "ms": round(1e3 * seconds, 2)}
        if setting.device == "cuda":
            line[name]["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setting.device == "cuda" else [])]
        with profile(activities=kinds) as profiler:
            run_step(state, batch)
        key = f"self_{'device' if setting.device == 'cuda' else 'cpu'}_time_total"
        kernels = sorted(profiler.key_averages(), key=lambda entry: getattr(entry, key), reverse=True)[:20]
        line[name]["kernels"] = [[entry.key[:80], entry.count, round(getattr(entry, key) / 1e3, 3)] for entry in kernels]
    return line


def augmentation(setting: Setting) -> Line:
    from dhvt.training.augmentation.draws import Draws

    line: Line = {}
    for recipe_name in ("short", "cifar100"):
        state, batch = make_trainer(setting, compiled=False, recipe_name=recipe_name)
        images, labels, keys = batch.images, batch.labels, batch.keys.numpy()
        transform = time_calls(lambda: state._transform(images, labels, Draws(0, keys), 0, 1.0), setting)  # noqa: B023
        step = time_calls(lambda: run_step(state, batch), setting)  # noqa: B023
        line[recipe_name] = {
            "ms": round(1e3 * transform, 2),
            "step_ms": round(1e3 * step, 2),
            "share": round(transform / step, 3),
        }
    return line


def onnx(setting: Setting) -> Line:
    import numpy as np
    import onnxruntime

    from dhvt.artifact import load_artifact
    from dhvt.engines.settings import BUNDLED_MODEL

    artifact = load_artifact(BUNDLED_MODEL)
    graphs = {variant: artifact.path / name for variant, name in (("fp32", "model.onnx"), ("fp16", "model.fp16.onnx"))}
    provider = "CUDAExecutionProvider" if setting.device == "cuda" else "CPUExecutionProvider"
    if setting.device == "cuda":
        onnxruntime.preload_dlls()
    line: Line = {"provider": provider, "available": onnxruntime.get_available_providers()}
    for precision, path in graphs.items():
        if not path.exists():
            line[precision] = f"no {path.name} here"
            continue
        for batch_size in (1, 32) if setting.small else (1, 32, 256):
            images = np.random.default_rng(0).integers(0, 256, (batch_size, *artifact.card.preprocess.size, 3), dtype=np.uint8)
            for name in ("free", *(["bound", "graph"] if setting.device == "cuda" else [])):
                options = {"enable_cuda_graph": "1"} if name == "graph" else {}
                session = onnxruntime.InferenceSession(str(path), providers=[(provider, options)])
                seconds = time_calls(_onnx_call(session, images, is_bound=name != "free"), setting)
                line[f"{precision} {name} batch {batch_size}"] = round(batch_size / seconds, 1)
    return line


def _onnx_call(session: Any, images: Any, *, is_bound: bool) -> Callable[[], Any]:
    import onnxruntime

    source, target = session.get_inputs()[0].name, session.get_outputs()[0].name
    if not is_bound:
        return lambda: session.run([target], {source: images})
    binding = session.io_binding()
    binding.bind_ortvalue_input(source, onnxruntime.OrtValue.ortvalue_from_numpy(images, "cuda", 0))
    classes = session.get_outputs()[0].shape[-1]
    logits = onnxruntime.OrtValue.ortvalue_from_shape_and_type([len(images), classes], "float32", "cuda", 0)
    binding.bind_ortvalue_output(target, logits)
    return lambda: session.run_with_iobinding(binding)


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
