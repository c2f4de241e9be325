"""The steps of gpu_session.py that measure in their own process: the model, its training and its graphs."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

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
    line: Line = {}
    for recipe_name in ("short", "cifar100"):
        line[recipe_name] = _share_of_step(setting, recipe_name)
    return line


def _share_of_step(setting: Setting, recipe_name: str) -> Line:
    from dhvt.training.augmentation.draws import Draws

    state, batch = make_trainer(setting, compiled=False, recipe_name=recipe_name)
    images, labels, keys = batch.images, batch.labels, batch.keys.numpy()
    transform = time_calls(lambda: state._transform(images, labels, Draws(0, keys), 0, 1.0), setting)
    step = time_calls(lambda: run_step(state, batch), setting)
    return {"ms": round(1e3 * transform, 2), "step_ms": round(1e3 * step, 2), "share": round(transform / step, 3)}


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
