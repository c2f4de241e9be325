"""The job on Ray Data: decoding in tasks, engines in actors, and the rows back to the driver, which alone writes.

Nodes need no common disk, but for images that are named by local paths: the model goes with the job. What is on its way is
bounded, so that memory does not grow with the input.
"""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext

from dhvt.answers import answer_row, answer_schema
from dhvt.artifact import CARD_NAME, Artifact, load_artifact
from dhvt.bulk.units import Unit, read_unit
from dhvt.classifier import Classifier
from dhvt.data.batches import split
from dhvt.data.preprocess import Preprocess, preprocess_image
from dhvt.data.text import encodable
from dhvt.errors import ConfigError, EngineError, ImageError
from dhvt.hardware.cpus import available_cpus

CHUNK_BYTES = 16 * 2**20
"""Of decoded images that go from a decoder to an engine together."""

CHUNK_IMAGES = 512
DECODER_CPUS = 0.25
"""What Ray counts for a decoder, so that there are four for each processor that engines leave."""


@dataclass(frozen=True, kw_only=True)
class BulkSettings:
    """How a job runs.

    Args:
        address: of a Ray cluster, or ``auto``; None starts Ray on this machine.
        engine: as for :meth:`dhvt.Classifier.load`.
        threads: processors of each engine; 0 takes all of the smallest node.
        top_k: classes in each row.
        coverage, by_class, reject: as for :meth:`dhvt.Classifier.classify`.
    """

    address: str | None = None
    engine: str = "auto"
    threads: int = 0
    top_k: int = 5
    coverage: float | None = None
    by_class: bool = False
    reject: float | None = None

    def asked(self) -> dict[str, Any]:
        """What a row has; another value is another job."""
        names = ("top_k", "coverage", "by_class", "reject")
        return {name: getattr(self, name) for name in names}


def run_units(
    artifact: Artifact, units: Mapping[int, Unit], settings: BulkSettings
) -> Iterator[tuple[int, pa.Table | None, int]]:
    """Classifies units, as they are done.

    Yields:
        The unit's number, its rows once all of them are there, else None, and how many images were done.
    """
    _start(settings.address)
    try:
        yield from _collect(_answer(artifact, units, settings))
    finally:
        ray.shutdown()


def _answer(artifact: Artifact, units: Mapping[int, Unit], settings: BulkSettings) -> ray.data.Dataset:
    """A row for each chunk: unit, number, whether it is the unit's last, how many images, and their rows as a table."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # a row, which is a chunk, is a block
    resources = _resources(settings)
    model = ray.put({name: (artifact.path / name).read_bytes() for name in (CARD_NAME, *artifact.card.files)})
    rows = ray.data.from_items(
        [{"unit": number, **unit.to_row()} for number, unit in units.items()],
        override_num_blocks=len(units),
    )
    decoded = rows.flat_map(_Decoder(artifact.card.preprocess), num_cpus=DECODER_CPUS)
    return decoded.map_batches(
        _EngineActor,
        fn_constructor_args=(model, settings, resources.threads),
        batch_size=1,
        compute=ActorPoolStrategy(min_size=1, max_size=resources.engines, max_tasks_in_flight_per_actor=4),
        num_cpus=resources.cpus,
        num_gpus=resources.gpus,
    )


def _collect(answered: ray.data.Dataset) -> Iterator[tuple[int, pa.Table | None, int]]:
    """See :func:`run_units`."""
    waiting: dict[int, dict[int, bytes]] = {}
    chunks: dict[int, int] = {}
    for row in _rows_of(answered):
        unit = int(row["unit"])
        parts = waiting.setdefault(unit, {})
        parts[int(row["chunk"])] = row["table"]
        if row["last"]:
            chunks[unit] = int(row["chunk"]) + 1
        table = None
        if len(parts) == chunks.get(unit):
            table = pa.concat_tables(_read_table(parts[chunk]) for chunk in sorted(parts))
            del waiting[unit], chunks[unit]
        yield unit, table, int(row["images"])


def _rows_of(data: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    """The rows; what fails on a node is one line."""
    try:
        yield from data.iter_rows()
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise EngineError(f"Ray stopped the job: {lines[-1]}; the same command goes on with it") from error


def _start(address: str | None) -> None:
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    for handler in logging.getLogger("ray.data").handlers:  # its files keep everything
        if handler.name == "console":
            handler.setLevel(logging.ERROR)
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if address is None:
        os.environ.setdefault("RAY_worker_niceness", "0")  # else 15: whatever else runs on the machine would go first
        ray.init("local", num_cpus=available_cpus(), include_dashboard=False, **options)
        return
    try:
        if address != "auto":  # Ray would try for five minutes
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, **options)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"no Ray cluster answers at {address}: {reason}; if it runs, set RAY_AUTH_MODE (token or disabled) as there"
        ) from error


@dataclass(frozen=True)
class _Resources:
    engines: int
    threads: int
    cpus: float
    gpus: int


def _resources(settings: BulkSettings) -> _Resources:
    """An engine for each GPU; without any, one for so many processors of each node, less what decoders need.

    Decoders get a quarter of each node: at least what two of them need, at most half of it.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]  # it has no types
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if gpus:
        return _Resources(gpus, settings.threads or 1, 1, 1)
    sizes = [int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1]
    threads = min(settings.threads or min(sizes), *sizes)
    cpus = max(min(threads - 2 * DECODER_CPUS, 0.75 * threads), threads / 2)
    return _Resources(sum(size // threads for size in sizes), threads, cpus, 0)


class _Decoder:
    """A unit's images as the network's input, in chunks."""

    def __init__(self, preprocess: Preprocess) -> None:
        self._preprocess = preprocess

    def __call__(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        unit = Unit.from_row(row)
        height, width = self._preprocess.size
        size = max(min(CHUNK_IMAGES, CHUNK_BYTES // (height * width * 3)), 1)
        # Decoded as they are read: a file of a camera is larger than what the network takes of it.
        chunks = split(((key, self._decode(data)) for key, data in read_unit(unit)), size)
        chunk, number = next(chunks, []), 0
        while True:
            following = next(chunks, None)
            keys, errors, pixels = [], [], []
            for key, found in chunk:
                keys.append(encodable(key))
                errors.append(encodable(str(found)) if isinstance(found, ImageError) else None)
                if not isinstance(found, ImageError):
                    pixels.append(found.tobytes())
            yield {
                "unit": row["unit"],
                "chunk": number,
                "last": following is None,
                "keys": pa_bytes(keys),
                "errors": pa_bytes(errors),
                "pixels": b"".join(pixels),
            }
            if following is None:
                return
            chunk, number = following, number + 1

    def _decode(self, data: bytes | ImageError) -> np.ndarray[Any, Any] | ImageError:
        if isinstance(data, ImageError):
            return data
        try:
            return preprocess_image(data, self._preprocess)
        except ImageError as error:
            return error


def pa_bytes(texts: Sequence[str | None]) -> bytes:
    """Texts in Arrow's format: Ray would make a column of lists of what differs from row to row."""
    return _write_table(pa.table({"text": pa.array(texts, pa.string())}))


def _write_table(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _read_table(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()


class _EngineActor:
    """The model in an engine, opened and proved once.

    Args:
        model: Ray's reference to the model folder's files by name.
    """

    def __init__(self, model: Any, settings: BulkSettings, threads: int) -> None:
        self._settings = settings
        with tempfile.TemporaryDirectory(prefix="dhvt-bulk-") as name:
            folder = Path(name)
            files: Mapping[str, bytes] = ray.get(model)
            for file, content in files.items():
                (folder / file).write_bytes(content)
            # Ray tells libraries of numerical computing to use one thread (ray#44905), so that the number is always given.
            self._classifier = Classifier.load(load_artifact(folder), settings.engine, threads=threads)
        card, engine = self._classifier.artifact.card, self._classifier.engine
        self._schema = answer_schema(
            {"model": card.name, "version": card.version, "digest": card.digest, "engine": f"{engine.name}:{engine.precision}"}
        )
        self._callers = ThreadPoolExecutor(engine.concurrency)

    def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
        keys, errors = (_read_table(batch[name][0])["text"].to_pylist() for name in ("keys", "errors"))
        height, width = self._classifier.artifact.card.preprocess.size
        inputs = np.frombuffer(batch["pixels"][0], np.uint8).reshape(-1, height, width, 3)
        size = self._classifier.max_batch_size
        parts = [inputs[start : start + size] for start in range(0, len(inputs), size)]
        answers = (answer for found in self._callers.map(self._classify, parts) for answer in found)
        results = [next(answers) if error is None else ImageError(error) for error in errors]
        rows = [{"file": key} | answer_row(result) for key, result in zip(keys, results, strict=True)]
        return {
            "unit": batch["unit"],
            "chunk": batch["chunk"],
            "last": batch["last"],
            "images": np.array([len(rows)]),
            "table": np.array([_write_table(pa.Table.from_pylist(rows, self._schema))], dtype=object),
        }

    def _classify(self, inputs: np.ndarray[Any, Any]) -> list[Any]:
        asked = self._settings
        return self._classifier.classify_inputs(
            inputs, asked.top_k, coverage=asked.coverage, by_class=asked.by_class, reject=asked.reject
        )
