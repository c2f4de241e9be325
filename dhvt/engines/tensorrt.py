"""TensorRT, or TensorRT for RTX, on an NVIDIA GPU: runs ``model.engine``.

The engine is loaded by a runtime of exactly the version that built it; memory and stream are CUDA's own. There is one
stream and one pair of buffers for the largest batch of the engine's profile, because there is one call at a time; and one
execution context for batches of any size, beside those of the CUDA graphs.
"""

from __future__ import annotations

import hashlib
import logging
import platform
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhvt.artifact import ENGINE_NAME, INPUT_NAME, OUTPUT_NAME, Artifact
from dhvt.engines.chunks import run_in_chunks
from dhvt.engines.compatibility import REBUILD, EngineEntry, Machine, require_fit, tuning_warning
from dhvt.engines.tensorrt_runtime import CudaEngine, ExecutionContext, import_cuda, import_runtime, make_log
from dhvt.errors import EngineError

logger = logging.getLogger(__name__)

LARGEST_GRAPH_BATCH = 4
"""Batches up to this size run as CUDA graphs: their kernels are shorter than their launches. 0 for none."""


class TensorRTEngine:
    """Loads the artifact's engine, in the one precision that it was built in.

    A batch above the engine's profile is cut into chunks; one below is filled up.

    Raises:
        EngineUnavailable: the artifact has no engine, or its engine is for another version of TensorRT or another GPU.
        EngineError: the engine was changed, or cannot be loaded; a CUDA call failed.
    """

    name = "tensorrt"
    concurrency = 1
    preferred_batch_size = None

    @staticmethod
    def precisions(artifact: Artifact) -> list[str]:
        """The engine's."""
        return [EngineEntry.from_card(artifact.card).precision]

    def __init__(self, artifact: Artifact, precision: str, *, threads: int, max_batch_size: int, device: int = 0) -> None:
        self._entry = entry = EngineEntry.from_card(artifact.card)
        if precision != entry.precision:
            raise EngineError(
                f"the model's engine is in {entry.precision}, not {precision}; {REBUILD} --precision {precision} builds another"
            )
        self.precision = precision
        flavour = import_runtime(entry.flavour)
        cuda = import_cuda()
        machine = Machine(
            platform=f"{platform.system()} {platform.machine()}",
            version=getattr(flavour, "__version__", None),
            gpu=cuda.find_gpu(device),
        )
        require_fit(entry, machine, artifact.card)
        if (warning := tuning_warning(entry, machine)) is not None:
            logger.warning("%s", warning)
        data = (artifact.path / ENGINE_NAME).read_bytes()
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise EngineError(f"{ENGINE_NAME} is not the exported file (SHA-256 differs); repeat {REBUILD}")
        self._cuda, self._device = cuda, device
        cuda.use_device(device)
        # All of these live as long as the engine: TensorRT does not keep what it was given.
        self._log = make_log(flavour)
        self._runtime = flavour.Runtime(self._log)
        engine: CudaEngine | None = self._runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise EngineError(f"{entry.flavour} {entry.version} cannot load {ENGINE_NAME}: {self._log.take_errors()}")
        self._engine = engine
        _require_tensors(flavour, engine, entry, artifact)
        self._stream = cuda.Stream()
        height, width = artifact.card.preprocess.size
        self._images = cuda.Buffer((entry.max_batch_size, height, width, 3), np.uint8, self._stream)
        self._logits = cuda.Buffer((entry.max_batch_size, len(artifact.card.classes)), np.float32, self._stream)
        self._context = self._create_context(flavour)
        self._graphs: dict[int, tuple[Any, ExecutionContext]] = {}
        if entry.flavour == "tensorrt":
            self._record_graphs(flavour)
        else:
            self._prove_graphs(flavour)

    def _create_context(self, flavour: Any, graphs: bool = True) -> ExecutionContext:
        if self._entry.flavour == "tensorrt_rtx":
            self._config = config = self._engine.create_runtime_config()
            # By default it would compile kernels for each new batch size in the background and use them later:
            # other code would then serve than passed the self-test.
            config.dynamic_shapes_kernel_specialization_strategy = flavour.DynamicShapesKernelSpecializationStrategy.NONE
            if graphs and LARGEST_GRAPH_BATCH and hasattr(flavour, "CudaGraphStrategy"):  # since 1.2; it records by itself
                config.cuda_graph_strategy = flavour.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context()
        if context is None:
            raise EngineError(
                f"{self._entry.flavour} {self._entry.version} cannot run {ENGINE_NAME}: {self._log.take_errors()}"
            )
        for name, buffer in ((INPUT_NAME, self._images), (OUTPUT_NAME, self._logits)):
            self._require(context.set_tensor_address(name, buffer.device), f"take the address of {name}")
        return context

    def _record_graphs(self, flavour: Any) -> None:
        """Records a CUDA graph of each small batch size; where one cannot be recorded, batches of its size run without."""
        smallest, largest = self._entry.min_batch_size, min(LARGEST_GRAPH_BATCH, self._entry.max_batch_size)
        for count in range(smallest, largest + 1):
            try:
                # A context of its own: a recording keeps the shape and the memory of its context, and the next batch of
                # another size could change what it reads there.
                context = self._create_context(flavour)
                self._enqueue(context, count)  # once without recording, in which TensorRT settles what the shape needs
                self._stream.wait()
                graph = self._cuda.Graph(self._stream, lambda context=context, count=count: self._execute(context, count))
                graph.launch()
                self._stream.wait()
            except EngineError as error:
                logger.warning("batches of %d and more run without a CUDA graph: %s", count, error)
                return
            self._graphs[count] = graph, context

    def _prove_graphs(self, flavour: Any) -> None:
        """Turns off CUDA graphs where TensorRT for RTX, which records them by itself, cannot."""
        try:
            for _ in range(3):  # plainly, recording, and launching what was recorded
                self._enqueue(self._context, self._entry.min_batch_size)
                self._stream.wait()
        except EngineError as error:
            logger.warning("TensorRT for RTX runs without CUDA graphs: %s", error)
            self._context = self._create_context(flavour, graphs=False)

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self._cuda.use_device(self._device)  # the calling thread may be another than last time
        return run_in_chunks(self._run, images, self._entry.min_batch_size, self._entry.max_batch_size)

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        count = len(images)
        self._images.host[:count] = images
        self._images.upload(count)
        if count in self._graphs:
            self._graphs[count][0].launch()
        else:
            self._enqueue(self._context, count)
        self._logits.download(count)
        self._stream.wait()
        logits: NDArray[np.float32] = self._logits.host[:count]
        return logits

    def _enqueue(self, context: ExecutionContext, count: int) -> None:
        shape = (count, *self._images.host.shape[1:])
        self._require(context.set_input_shape(INPUT_NAME, shape), f"take images of {shape}")
        self._execute(context, count)

    def _execute(self, context: ExecutionContext, count: int) -> None:
        self._require(context.execute_async_v3(int(self._stream.handle)), f"run a batch of {count}")

    def _require(self, done: bool, what: str) -> None:
        if not done:
            raise EngineError(f"{self._entry.flavour} does not {what}: {self._log.take_errors()}")


def _require_tensors(flavour: Any, engine: CudaEngine, entry: EngineEntry, artifact: Artifact) -> None:
    """
    Raises:
        EngineError: the engine's inputs, outputs or batch sizes are not those of model.json.
    """
    height, width = artifact.card.preprocess.size
    expected = {
        INPUT_NAME: (flavour.DataType.UINT8, (-1, height, width, 3)),
        OUTPUT_NAME: (flavour.DataType.FLOAT, (-1, len(artifact.card.classes))),
    }
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found = {name: (engine.get_tensor_dtype(name), tuple(engine.get_tensor_shape(name))) for name in names}
    if found != expected:
        raise EngineError(f"{ENGINE_NAME} has the tensors {found}, expected {expected}; repeat {REBUILD}")
    smallest, _, largest = (shape[0] for shape in engine.get_tensor_profile_shape(INPUT_NAME, 0))
    if (smallest, largest) != (entry.min_batch_size, entry.max_batch_size):
        raise EngineError(
            f"{ENGINE_NAME} takes batches of {smallest} to {largest}, model.json says {entry.min_batch_size} to "
            f"{entry.max_batch_size}; repeat {REBUILD}"
        )
