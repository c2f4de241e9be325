"""A graph in OpenVINO on the processor, as the server runs it and the export measures it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino
from numpy.typing import NDArray

from dhvt.artifact import OUTPUT_NAME
from dhvt.hardware.cpus import allowed_cpus

_MAX_STREAMS = 8

PART = 4
"""Images of a part of a batch: with more, nothing was gained any more."""


class PartedGraph:
    """Runs batches in parts.

    A single image runs on all threads. More are shared out over streams, one a thread up to eight, which need not wait
    for each other after every layer, in parts of four or one: a graph compiled for a fixed batch size is faster than one
    for any, and what four images need between two layers stays in the cache. OpenVINO also rounds a quantized graph
    for any batch size in other places; its logits differ by up to 0.1.

    Args:
        path: an ONNX file or OpenVINO's IR.
        threads: of the processor.
        precision: in which what is not quantized is computed, by OpenVINO's name: ``f32`` or ``bf16``.

    Raises:
        RuntimeError: OpenVINO cannot compile the graph here.
    """

    def __init__(self, path: Path, *, threads: int, precision: str = "f32") -> None:
        core = openvino.Core()
        model = core.read_model(path)
        # Pinned threads start at the first processor that this process may use, as those of every other process do.
        has_all = threads >= allowed_cpus()
        options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision, "ENABLE_CPU_PINNING": has_all}
        self.streams = min(threads, _MAX_STREAMS)
        throughput = options | {"NUM_STREAMS": self.streams}
        self._alone = _FixedBatch(core, model, 1, options | {"PERFORMANCE_HINT": "LATENCY"})
        self._one = _FixedBatch(core, model, 1, throughput) if self.streams > 1 else self._alone
        self._part = _FixedBatch(core, model, PART, throughput)

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Images ``(B, H, W, 3)`` uint8 RGB, any B ≥ 1, to logits ``(B, classes)``; from several threads, too."""
        if len(images) == 1:
            return self._alone.finish(self._alone.start(images))
        rounds, rest = divmod(len(images), PART * self.streams)
        parts = rounds * self.streams + (rest // PART if rest > (PART - 1) * self.streams else 0)
        graphs = [self._part] * parts + [self._one] * (len(images) - PART * parts)
        requests, start = [], 0
        for graph in graphs:
            requests.append(graph.start(images[start : start + graph.size]))
            start += graph.size
        return np.concatenate([graph.finish(request) for graph, request in zip(graphs, requests, strict=True)])


class _Request:
    """One that OpenVINO runs, over tensors of its own: it is told once, and not with each batch, where they are."""

    def __init__(self, compiled: openvino.CompiledModel) -> None:
        self._request = compiled.create_infer_request()
        self._images = self._request.get_input_tensor().data
        self._logits = self._request.get_tensor(OUTPUT_NAME).data

    def start(self, images: NDArray[np.uint8]) -> None:
        self._images[...] = images
        self._request.start_async()

    def finish(self) -> NDArray[np.float32]:
        self._request.wait()
        logits: NDArray[np.float32] = self._logits.astype(np.float32)  # a copy
        return logits


class _FixedBatch:
    """The graph compiled for batches of one size; they queue for its streams."""

    def __init__(self, core: openvino.Core, model: openvino.Model, size: int, options: dict[str, object]) -> None:
        model = model.clone()
        model.reshape([size, *list(model.input().partial_shape)[1:]])
        self.size = size
        self._compiled = core.compile_model(model, "CPU", options)
        self._idle: list[_Request] = []

    def start(self, images: NDArray[np.uint8]) -> _Request:
        """Begins with ``(size, H, W, 3)``."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = _Request(self._compiled)
        request.start(images)
        return request

    def finish(self, request: _Request) -> NDArray[np.float32]:
        """Its logits, when they are there."""
        logits = request.finish()
        self._idle.append(request)
        return logits
