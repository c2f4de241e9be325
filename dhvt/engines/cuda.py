"""CUDA for an engine: a device, a stream, a recorded graph, and buffers on host and device."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from cuda.bindings import runtime
from numpy.typing import DTypeLike, NDArray

from dhvt.errors import EngineError
from dhvt.hardware.gpus import Gpu


def call(function: Any, *arguments: Any) -> Any:
    """Calls the CUDA runtime.

    Returns:
        The function's result without the error code; None if it has no other.

    Raises:
        EngineError: CUDA reports an error.
    """
    code, *results = function(*arguments)
    if code != runtime.cudaError_t.cudaSuccess:
        _, text = runtime.cudaGetErrorString(code)
        raise EngineError(f"{function.__name__}: {text.decode()} ({code.name})")
    return results[0] if results else None


def find_gpu(device: int = 0) -> Gpu | str:
    """The GPU of this index among the visible ones, or CUDA's reason why there is none."""
    try:
        properties = call(runtime.cudaGetDeviceProperties, device)
    except EngineError as error:
        return str(error)
    return Gpu(name=properties.name.decode(), compute_capability=f"{properties.major}.{properties.minor}")


def use_device(device: int = 0) -> None:
    """Makes the device's primary context, which TensorRT uses too, current in the calling thread."""
    call(runtime.cudaSetDevice, device)


class Stream:
    """A queue of work that does not wait for the default one."""

    def __init__(self) -> None:
        self.handle = call(runtime.cudaStreamCreateWithFlags, runtime.cudaStreamNonBlocking)
        weakref.finalize(self, runtime.cudaStreamDestroy, self.handle)

    def wait(self) -> None:
        """Waits until all its work is done; errors of that work are raised here."""
        call(runtime.cudaStreamSynchronize, self.handle)


class Graph:
    """Work of a stream, recorded once and then launched as a whole, which saves the launch of each kernel.

    Args:
        record: puts the work on the stream; nothing in it may wait, or allocate memory. It has run once before.

    Raises:
        EngineError: something in it cannot be recorded. The stream can be used all the same.
    """

    def __init__(self, stream: Stream, record: Callable[[], None]) -> None:
        self._stream = stream
        # Thread-local: calls of other threads meanwhile, such as cudaMalloc, do not end this recording.
        call(runtime.cudaStreamBeginCapture, stream.handle, runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        try:
            record()
        except BaseException:
            # The recording must be ended, or the stream stays unusable; its own error would hide the first.
            code, partial = runtime.cudaStreamEndCapture(stream.handle)
            if code == runtime.cudaError_t.cudaSuccess:
                runtime.cudaGraphDestroy(partial)
            raise
        recorded = call(runtime.cudaStreamEndCapture, stream.handle)
        try:
            self._launchable = call(runtime.cudaGraphInstantiate, recorded, 0)
        finally:
            runtime.cudaGraphDestroy(recorded)
        weakref.finalize(self, runtime.cudaGraphExecDestroy, self._launchable)

    def launch(self) -> None:
        """Puts all of it on the stream."""
        call(runtime.cudaGraphLaunch, self._launchable, self._stream.handle)


class Buffer:
    """An array in page-locked memory of the host, and a copy of it on the device.

    Args:
        shape: of the whole array; the first dimension is the batch.
        stream: the stream that copies it.
    """

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike, stream: Stream) -> None:
        self._stream = stream
        kind = np.dtype(dtype)
        size = int(np.prod(shape)) * kind.itemsize
        host = call(runtime.cudaMallocHost, size)
        weakref.finalize(self, runtime.cudaFreeHost, host)
        self.device: int = call(runtime.cudaMalloc, size)
        weakref.finalize(self, runtime.cudaFree, self.device)
        self.host: NDArray[Any] = np.ctypeslib.as_array((ctypes.c_byte * size).from_address(host)).view(kind).reshape(shape)

    def upload(self, count: int) -> None:
        """Copies the first ``count`` rows from host to device."""
        rows = self.host[:count]
        kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        call(runtime.cudaMemcpyAsync, self.device, rows.ctypes.data, rows.nbytes, kind, self._stream.handle)

    def download(self, count: int) -> None:
        """Copies the first ``count`` rows from device to host; they are complete after :meth:`Stream.wait`."""
        rows = self.host[:count]
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        call(runtime.cudaMemcpyAsync, rows.ctypes.data, self.device, rows.nbytes, kind, self._stream.handle)
