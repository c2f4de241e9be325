"""Samples of what clients send, for labelling and training: images, and a line of JSON for each as Label Studio imports it.

``images/<most likely class>/<hash>.<format>`` and ``tasks.jsonl`` in one folder, which all workers of a server share. Off
unless a folder is named. A thread writes; requests neither wait for it nor fail with it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import Full, Queue
from threading import Lock, Thread
from time import monotonic
from typing import Any
from urllib.parse import quote

from dhvt.artifact import ModelCard
from dhvt.data.formats import name_of_brand
from dhvt.data.text import encodable
from dhvt.errors import ConfigError
from dhvt.files import replacing
from dhvt.ranking import Ranking
from serving.metrics import Metrics
from serving.settings import PREFIX, Settings

logger = logging.getLogger("bentoml.service.dhvt")

TASKS = "tasks.jsonl"
IMAGES = "images"
_USED = ".used_bytes"  # in the folder: what its files have together, written under a lock
_WAITING = 32  # images that wait to be written; further ones are not sampled
_COUNT_AGAIN_S = 60  # how often a full folder is looked at again
_LOG_AGAIN_S = 60
_CLOSE_S = 5
_NAME_BYTES = 200
_SUFFIXES = ((b"\xff\xd8", ".jpg"), (b"\x89PNG", ".png"), (b"RIFF", ".webp"), (b"GIF8", ".gif"), (b"BM", ".bmp"))


@dataclass(frozen=True)
class _Sample:
    image: bytes
    ranking: Ranking
    card: ModelCard


class Sampler:
    """Keeps some of the images that are classified.

    Args:
        settings: of this process; without ``sample_folder`` nothing is kept.
        metrics: where the outcomes are counted.
        chance: gives numbers from 0 to 1.
    """

    def __init__(self, settings: Settings, metrics: Metrics, chance: random.Random | None = None) -> None:
        self._rate = settings.sample_rate if settings.sample_folder else 0.0
        self._below = settings.sample_below_score
        self._folder, self._max_bytes = Path(settings.sample_folder), settings.sample_max_bytes
        self._metrics, self._chance = metrics, chance or random.Random()
        self._queue: Queue[_Sample | None] = Queue(_WAITING)
        self._waiting_bytes, self._lock = 0, Lock()
        self._max_waiting_bytes = 2 * settings.max_upload_bytes
        self._logged = self._counted = -float("inf")
        self._thread = Thread(target=self._write_all, name="samples", daemon=True)
        if self._rate:
            self._thread.start()

    def offer(self, image: bytes, ranking: Ranking, card: ModelCard) -> None:
        """Keeps the image if it is its turn; returns at once, and never raises.

        Args:
            image: encoded.
            ranking: what the model of this card says of it.
            card: of the model.
        """
        if not self._rate or self._chance.random() >= self._rate:
            return
        if self._below < 1 and ranking.scores[0] >= self._below:
            return
        with self._lock:  # held for a few instructions
            has_room = self._waiting_bytes + len(image) <= self._max_waiting_bytes and not self._queue.full()
            if has_room:
                self._waiting_bytes += len(image)
                self._queue.put_nowait(_Sample(image, ranking, card))
        if not has_room:
            self._metrics.samples.labels("dropped").inc()

    def close(self) -> None:
        """Writes what waits, for a few seconds at most."""
        if self._thread.is_alive():
            with suppress(Full):
                self._queue.put(None, timeout=_CLOSE_S)
            self._thread.join(_CLOSE_S)

    def _write_all(self) -> None:
        """The thread. Whatever goes wrong with one sample, the next is taken."""
        while (sample := self._queue.get()) is not None:
            try:
                outcome = self._write(sample)
            except Exception as error:
                outcome = "failed"
                if monotonic() - self._logged > _LOG_AGAIN_S:
                    self._logged = monotonic()
                    logger.error("a sample cannot be written to %s: %s", self._folder, error)
            self._metrics.samples.labels(outcome).inc()
            with self._lock:
                self._waiting_bytes -= len(sample.image)
            del sample  # or an idle thread would keep the last image

    def _write(self, sample: _Sample) -> str:
        """Writes the image and its line; returns the outcome: ``saved``, ``repeated`` or ``full``."""
        name = hashlib.sha256(sample.image).hexdigest()[:32] + _suffix(sample.image)
        label = sample.card.classes[sample.ranking.indices[0]]
        path = self._folder / IMAGES / folder_name(label) / name
        task = _describe(sample, path.relative_to(self._folder))
        line = json.dumps(task, ensure_ascii=False).encode() + b"\n"
        size = len(sample.image) + len(line)
        with _locked(self._folder) as used:
            if used.bytes + size > self._max_bytes and not self._has_room(used, size):
                return "full"
            if any((folder / name).exists() for folder in (self._folder / IMAGES).iterdir()):
                return "repeated"  # wherever it lies: somebody may have put it into another class
            path.parent.mkdir(mode=0o700, exist_ok=True)
            _write_new(path, sample.image)
            try:
                _append(self._folder / TASKS, line)
            except OSError:
                path.unlink()  # or it would count as kept
                raise
            used.bytes += size
        return "saved"

    def _has_room(self, used: _Used, size: int) -> bool:
        """Whether somebody has made room in a full folder; its files are counted again, though not for every image."""
        if monotonic() - self._counted < _COUNT_AGAIN_S:
            return False
        self._counted = monotonic()
        used.bytes = count_bytes(self._folder)
        return used.bytes + size <= self._max_bytes


@dataclass
class _Used:
    bytes: int


@contextmanager
def _locked(folder: Path) -> Iterator[_Used]:
    """How many bytes the samples have; workers wait for each other, and what the block changes is written at its end."""
    with open(folder / _USED, "r+b", opener=_open_private) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        content = file.read(30)
        used = _Used(int(content) if content.isdigit() else count_bytes(folder))
        before = used.bytes if content.isdigit() else -1
        try:
            yield used
        finally:
            if used.bytes != before:
                file.seek(0)
                file.truncate()
                file.write(b"%d" % used.bytes)


def prepare_folder(settings: Settings) -> None:
    """Makes the folder where samples are to be kept, and counts what is in it.

    Raises:
        ConfigError: it cannot be written to.
    """
    if not settings.sample_folder:
        return
    folder = Path(settings.sample_folder)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / IMAGES).mkdir(mode=0o700, exist_ok=True)
        with _locked(folder) as used:
            used.bytes = count_bytes(folder)
    except OSError as error:
        raise ConfigError(
            f"{PREFIX}SAMPLE_FOLDER is {str(folder)!r}, which cannot be written to: {error.strerror or error}"
        ) from error


def count_bytes(folder: Path) -> int:
    """Returns the size of all samples of a folder."""
    total = (folder / TASKS).stat().st_size if (folder / TASKS).exists() else 0
    for root, _, names in os.walk(folder / IMAGES):
        for name in names:
            with suppress(FileNotFoundError):  # somebody is sorting them
                total += (Path(root) / name).stat().st_size
    return total


def folder_name(label: str) -> str:
    """Returns the class as a folder's name; what a name cannot have is written as in URLs."""
    name = "".join(c if c.isprintable() and c not in "/\\%" else quote(c, safe="") for c in encodable(label)) or "_"
    name = "%2E" + name[1:] if name.startswith(".") else name
    return name.encode()[:_NAME_BYTES].decode(errors="ignore")


def _describe(sample: _Sample, path: Path) -> dict[str, Any]:
    """The task as Label Studio imports it, with the model's prediction. It finds images below its LOCAL_FILES_DOCUMENT_ROOT."""
    card, best = sample.card, sample.ranking.top(sample.card, 1)[0]
    choice = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [encodable(best["label"])]}}
    return {
        "data": {
            "image": f"/data/local-files/?d={quote(str(path))}",
            "file": str(path),
            "sampled_at": datetime.now(UTC).isoformat(timespec="seconds"),
        },
        "predictions": [{"model_version": f"{card.name} {card.version}", "score": best["score"], "result": [choice]}],
    }


def _suffix(image: bytes) -> str:
    brand = name_of_brand(image)
    if brand is not None:
        return f".{brand.lower()}"
    return next((suffix for start, suffix in _SUFFIXES if image.startswith(start)), ".tif")


def _write_new(path: Path, content: bytes) -> None:
    """Writes a file that is whole as soon as it has its name."""
    with replacing(path) as temporary, open(temporary, "wb", opener=_open_private) as file:
        file.write(content)


def _append(path: Path, line: bytes) -> None:
    """Adds a line whole or, where the disk is full, not at all."""
    with open(path, "ab", buffering=0, opener=_open_private) as file:
        before = file.tell()
        try:
            written = file.write(line)
            if written < len(line):
                file.write(line[written:])  # which says why
        except OSError:
            file.truncate(before)
            raise


def _open_private(path: str, flags: int) -> int:
    """Opens or makes a file that only its owner may read."""
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o600)
