"""The images of a run: those that are listed in ``--exclude`` or cannot be read are left out before anything else.

What is held out to validate on, the order of the images and their fingerprint are of the others alone. So a run can be
resumed after such a file was removed, listed or not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm

from dhvt.data.exclusion import ExcludeList, keep, pack_names
from dhvt.data.first_look import Seen, look_at
from dhvt.data.levels import WhiteLevels, describe_levels, fit_white_levels
from dhvt.data.record import record_training_data
from dhvt.data.sources import ImageSource
from dhvt.data.splits import TrainingData, open_training_data
from dhvt.data.text import count, printable
from dhvt.errors import DataError
from dhvt.training.config import RunOptions
from dhvt.training.distributed import processes_of_machine, require_same_images
from dhvt.training.progress import log

_MOST_NAMED = 100
"""Broken images that a message names."""


class RunImages(NamedTuple):
    """The images of a run, what its checkpoint records of them, a message for each one that cannot be read, and their white."""

    images: TrainingData
    data: dict[str, dict[str, Any]]
    broken: list[str]
    white: WhiteLevels


def open_images(options: RunOptions, seed: int, accelerator: Accelerator) -> RunImages:
    """Opens the images of a run and reads each once; every process has to call it.

    Raises:
        ConfigError, DataError: as for :func:`open_training_data`; or images cannot be read and ``on_broken`` is ``stop``.
    """
    selection = _Selection(options, accelerator)
    images = open_training_data(
        options.data,
        options.val,
        options.val_fraction,
        seed,
        selection.select,
        options.group_by,
        options.calibration_fraction,
    )
    selection.finish()
    data = record_training_data(images, hashes=selection.hashes)
    for kind, names in zip(data, selection.omitted, strict=False):
        if names:
            data[kind]["omitted"] = pack_names(names)
    return RunImages(images, data, selection.broken, selection.white or WhiteLevels())


class _Selection:
    """What was found in the splits so far.

    Attributes:
        omitted: of each split, the names of the images that are left out.
        broken: messages about images that cannot be read.
        hashes: of all others, by where they are.
        white: of the first split that was looked at, which is the one to train on.
    """

    def __init__(self, options: RunOptions, accelerator: Accelerator) -> None:
        self.options, self.accelerator = options, accelerator
        self.listed = ExcludeList(options.exclude) if options.exclude is not None else None
        self.omitted: list[list[str]] = []
        self.broken: list[str] = []
        self.hashes: dict[str, int] = {}
        self.excluded = 0
        self.white: WhiteLevels | None = None

    def select(self, source: ImageSource) -> ImageSource:
        """The images of a split that are used."""
        names: list[str] = []
        if self.listed is not None:
            source, names = self.listed.leave_out(source)
            self.excluded += len(names)
        _require_same_names(source, self.accelerator)
        found = self._refuse_values(self._look(source))
        readable = []
        for index, seen in enumerate(found):
            if seen.hash is not None:
                self.hashes[source.locate(index)] = seen.hash
                readable.append(index)
            else:
                self.broken.append(f"{printable(source.locate(index))}: {seen.error}")
                names.append(source.name(index))
        self.omitted.append(names)
        if not readable:
            raise DataError(f"not one image of {source.origin} can be used{_describe(self.broken)}")
        return source if len(readable) == len(source) else keep(source, readable)

    def _refuse_values(self, found: list[Seen]) -> list[Seen]:
        """Finds the white levels, and marks the images as broken that they do not fit."""
        ranges = [seen.values for seen in found if seen.values is not None]
        if self.white is None:
            self.white, reasons = fit_white_levels(ranges, self.options.white)
            fitting = [values for values, reason in zip(ranges, reasons, strict=True) if reason is None]
            if (line := describe_levels(fitting, self.white)) is not None:
                log(line)
        else:
            reasons = list(map(self.white.refusal, ranges))
        remaining = iter(reasons)
        judged = [(seen, None if seen.values is None else next(remaining)) for seen in found]
        return [seen if reason is None else Seen(None, reason) for seen, reason in judged]

    def finish(self) -> None:
        """After the last split: reports what was left out.

        Raises:
            DataError: images cannot be read and ``on_broken`` is ``stop``.
        """
        if self.listed is not None:
            log(f"{count(self.excluded, 'image')} left out, as listed in {self.listed.path}")
            unmatched = self.listed.describe_unmatched()
            if unmatched:
                log(unmatched)
        if self.broken and self.options.on_broken == "stop":
            raise DataError(
                f"{count(len(self.broken), 'image')} cannot be read{_describe(self.broken)}\n"
                "Leave them out with --on-broken skip, list them in a file for --exclude, or remove them; "
                "`dhvt check` shows more about the data."
            )
        if self.broken:
            log(f"omitted, since {count(len(self.broken), 'image')} cannot be read{_describe(self.broken)}")

    def _look(self, source: ImageSource) -> list[Seen]:
        """Looks at all images; the processes of one machine share them out."""
        accelerator = self.accelerator
        processes = processes_of_machine(accelerator)
        first = accelerator.local_process_index if processes > 1 else 0
        share = range(first, len(source), processes)
        with tqdm(
            total=len(share), unit="image", desc="reading", leave=False, delay=2, disable=not accelerator.is_main_process
        ) as bar:
            own = look_at(source, share, bar.update)
        if processes == 1:
            return own
        machine = accelerator.process_index // processes
        shares: list[list[Seen]] = gather_object([own])[machine * processes : (machine + 1) * processes]
        return [shares[index % processes][index // processes] for index in range(len(source))]


def _require_same_names(source: ImageSource, accelerator: Accelerator) -> None:
    """Compares the names, labels and classes of all processes' images, without reading one."""
    if accelerator.num_processes == 1:
        return
    digest = hashlib.blake2b("\0".join(source.classes).encode("utf-8", "surrogateescape"))
    digest.update(source.labels.tobytes())
    for index in range(len(source)):
        digest.update(source.name(index).encode("utf-8", "surrogateescape") + b"\0")
    require_same_images(accelerator, digest.hexdigest())


def _describe(messages: Sequence[str]) -> str:
    """``:`` and a line for each message."""
    lines = [f"\n  {message}" for message in messages[:_MOST_NAMED]]
    if len(messages) > _MOST_NAMED:
        lines.append(f"\n  and {len(messages) - _MOST_NAMED} more")
    return ":" * bool(lines) + "".join(lines)
