"""ONNX Runtime on an NVIDIA GPU, with its CUDA provider or its TensorRT provider, and never on the CPU instead.

ONNX Runtime keeps the few nodes that compute shapes on the CPU on purpose. Its option ``session.disable_cpu_ep_fallback``
refuses these as well, so that no graph with a free batch dimension would load. So the session is asked where it put each
node, and any other node on the CPU is refused here.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import os
from collections.abc import Iterable
from ctypes.util import find_library
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from dhvt.artifact import INPUT_NAME, OUTPUT_NAME, Artifact
from dhvt.engines.cache import CUDA_LIBRARIES, cache_folder, gpu_facts, is_ours, versions
from dhvt.engines.chunks import run_in_chunks
from dhvt.engines.onnx import require_fp32
from dhvt.errors import EngineError, EngineUnavailable

logger = logging.getLogger(__name__)

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
INSTALL = {
    CUDA: "pip uninstall onnxruntime; pip install 'onnxruntime-gpu[cuda,cudnn]'",
    TENSORRT: "pip install 'tensorrt-cu13<11' beside onnxruntime-gpu[cuda,cudnn]",
}
SHAPE_OPS = frozenset({"Shape", "Size", "Gather", "Concat", "Unsqueeze", "Squeeze", "Slice", "Cast"})
"""What may run on the CPU: a handful of numbers that say how large a tensor is."""
OPT_BATCH_SIZE = 16
TENSORRT_PACKAGES = ("onnxruntime-gpu", "tensorrt", "tensorrt-cu12", "tensorrt-cu13", *CUDA_LIBRARIES)


class OnnxRuntimeCUDAEngine:
    """Runs ``model.onnx`` in fp32 with ONNX Runtime's CUDA kernels.

    Raises:
        EngineUnavailable: this onnxruntime has no GPU support, or there is no driver.
        EngineError: the provider does not start, or leaves work to the CPU.
    """

    name = "onnxruntime-cuda"
    concurrency = 1
    preferred_batch_size = None

    @staticmethod
    def precisions(artifact: Artifact) -> list[str]:
        """fp32 only."""
        require_provider(CUDA)
        return ["fp32"]

    def __init__(self, artifact: Artifact, precision: str, *, threads: int, max_batch_size: int, device: int = 0) -> None:
        self.precision = require_fp32(precision)
        # Without these two it would multiply in TF32, with 10 bits of mantissa, and try every algorithm of every
        # convolution again at each new batch size.
        options = {"device_id": str(device), "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
        self._session = open_session(artifact, threads, [(CUDA, options)])

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self._session.run([OUTPUT_NAME], {INPUT_NAME: images})[0]
        return logits


class OnnxRuntimeTensorRTEngine:
    """Runs ``model.onnx`` in fp32 by ONNX Runtime's TensorRT provider, which builds an engine at the first start.

    Half precision is not offered: there TensorRT would choose which layers take it, and none of that was compared at
    export. ``dhvt export --target tensorrt`` builds engines in half precision.

    Raises:
        EngineUnavailable: this onnxruntime has no GPU support, or there is no driver.
        EngineError: the provider does not start, or leaves work to others.
    """

    name = "onnxruntime-tensorrt"
    concurrency = 1
    preferred_batch_size = None

    @staticmethod
    def precisions(artifact: Artifact) -> list[str]:
        """fp32 only."""
        require_provider(TENSORRT)
        if find_spec("tensorrt_libs") is None and find_library("nvinfer") is None:
            raise EngineUnavailable(f"TensorRT is not installed; {INSTALL[TENSORRT]}")
        return ["fp32"]

    def __init__(self, artifact: Artifact, precision: str, *, threads: int, max_batch_size: int, device: int = 0) -> None:
        self.precision = require_fp32(precision)
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # the provider has no option for it; see use_tf32 above
        self._max_batch_size = max_batch_size
        height, width = artifact.card.preprocess.size
        cuda = {"device_id": str(device), "use_tf32": "0"}
        options = {"device_id": str(device), **_cache_options(artifact, max_batch_size, device)}
        for kind, batch_size in (("min", 1), ("opt", min(OPT_BATCH_SIZE, max_batch_size)), ("max", max_batch_size)):
            options[f"trt_profile_{kind}_shapes"] = f"{INPUT_NAME}:{batch_size}x{height}x{width}x3"
        self._session = open_session(artifact, threads, [(TENSORRT, options), (CUDA, cuda)])

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        # For a batch above the profile it would build another engine, for minutes, in the middle of a request.
        return run_in_chunks(self._run, images, 1, self._max_batch_size)

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self._session.run([OUTPUT_NAME], {INPUT_NAME: images})[0]
        return logits


def require_provider(provider: str) -> None:
    """
    Raises:
        EngineUnavailable: this onnxruntime was built without the provider, or NVIDIA's driver is not installed.
    """
    if provider not in onnxruntime.get_available_providers():
        raise EngineUnavailable(f"onnxruntime {onnxruntime.__version__} has no {provider}; {INSTALL[CUDA]}")
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError as error:
        raise EngineUnavailable(f"no NVIDIA driver here ({error})") from error


def open_session(artifact: Artifact, threads: int, providers: list[tuple[str, dict[str, str]]]) -> Any:
    """The graph on the first of ``providers``; the others may take what it cannot, but not the CPU.

    Raises:
        EngineError: ONNX Runtime cannot do so here.
    """
    provider, version = providers[0][0], onnxruntime.__version__
    if provider not in onnxruntime.get_available_providers():
        raise EngineError(f"onnxruntime {version} has no {provider}; {INSTALL[CUDA]}")
    onnxruntime.preload_dlls()  # CUDA and cuDNN as pip installs them
    if provider == TENSORRT:
        _preload_tensorrt()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        # With enable_fallback it would go over to the CPU when the provider fails, at the start and in any later run.
        session = onnxruntime.InferenceSession(artifact.graph_path, options, providers, enable_fallback=0)
    except Exception as error:  # its exceptions have no common base but Exception
        raise EngineError(f"onnxruntime {version} cannot start its {provider}: {_why(provider) or error}") from error
    if session.get_providers()[0] != provider:
        why = _why(provider) or "is there a GPU? nvidia-smi lists them"
        raise EngineError(f"onnxruntime {version} did not start its {provider}: {why}")
    groups = session.get_provider_graph_assignment_info()
    strayed = strayed_ops(provider, ((group.ep_name, node.op_type) for group in groups for node in group.get_nodes()))
    if strayed:
        raise EngineError(f"onnxruntime {version} would not run all of the graph by its {provider}: {', '.join(strayed)}")
    return session


def strayed_ops(provider: str, assigned: Iterable[tuple[str, str]]) -> list[str]:
    """Which kinds of nodes, given as (provider, kind), run elsewhere than they should; shapes may."""
    return sorted({f"{op} by {where}" for where, op in assigned if where != provider and op not in SHAPE_OPS})


def _why(provider: str) -> str:
    """The system's error on loading the provider's library, which ONNX Runtime only logs; empty if it loads."""
    folder = Path(onnxruntime.__file__).parent / "capi"
    name = {CUDA: "cuda", TENSORRT: "tensorrt"}[provider]
    try:
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / f"libonnxruntime_providers_{name}.so"))
    except OSError as error:
        return f"{error}; {INSTALL[provider]}"
    return ""


def _preload_tensorrt() -> None:
    """Importing TensorRT's package loads its libraries, where the provider then finds them."""
    try:
        import tensorrt  # noqa: F401  # for what importing it does
    except (ImportError, OSError):
        return  # they may be on the library path; if not, the provider's own error names them


def _cache_options(artifact: Artifact, max_batch_size: int, device: int) -> dict[str, str]:
    """The provider's options to keep its engines, in one folder for all that they are tied to, because it checks little of it.

    What it keeps there is executed, so a folder that somebody else could write to is not used.
    """
    facts = [artifact.card.engine_digest, max_batch_size, *versions(TENSORRT_PACKAGES), *gpu_facts(device)]
    kept = cache_folder("onnxruntime-tensorrt")
    folder = None if kept is None else kept / hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    if kept is None or folder is None or not is_ours(kept) or not is_ours(folder):
        logger.warning("TensorRT's engines are built at each start: there is no safe folder to keep them; set XDG_CACHE_HOME")
        return {}
    names = ("engine", "timing")
    return {f"trt_{name}_cache_enable": "1" for name in names} | {f"trt_{name}_cache_path": str(folder) for name in names}
