"""Training over nodes: which processes write a run's files, the newest checkpoint on every node, and nodes that are lost.

Nodes may have a common disk or one each. On one of its own, the first process of a node writes the run's files there too, so
that whichever node is lost, the others have the checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch.distributed import DistError

from dhvt.errors import TrainError
from dhvt.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from dhvt.training.progress import log

_OF_GLOO = re.compile(r"gloo|Connection (closed|reset)|Broken pipe|Timed out waiting", re.IGNORECASE)


def writes_files(accelerator: Accelerator, folder: Path) -> bool:
    """Whether this process writes a run's files: the main one, and the first of each node that has a folder of its own.

    All processes have to call it at the same point.

    Raises:
        TrainError: the main process cannot write into the folder.
    """
    if accelerator.num_processes == 1:
        return True
    names = [f".nodes-{uuid4().hex}.tmp"]  # a new name, which no file system can have remembered as missing
    broadcast_object_list(names)
    mark = folder / names[0]
    if accelerator.is_main_process:
        try:
            mark.touch()
        except OSError as error:
            raise TrainError(f"cannot write into {folder}: {error.strerror}; choose another --out") from error
    accelerator.wait_for_everyone()
    is_common = mark.exists()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        mark.unlink(missing_ok=True)
    return accelerator.is_main_process or (accelerator.is_local_main_process and not is_common)


def share_newest(accelerator: Accelerator, is_writer: bool, path: Path, best: Path) -> None:
    """Copies the checkpoint with the most steps, and the best one beside it, to the nodes whose own is older or missing.

    All processes have to call it at the same point.

    Args:
        is_writer: what :func:`writes_files` gave.
        path, best: of the checkpoints on this node.

    Raises:
        CheckpointError: the node's own cannot be read, or the copy not be written.
    """
    if accelerator.num_processes == 1:
        return
    own = load_checkpoint(path) if is_writer and path.exists() else None
    step = -1 if own is None else own.step
    steps: list[int] = gather_object([step])
    newest = max(steps)
    is_older = is_writer and step < newest
    if not any(gather_object([is_older])):
        return
    source = steps.index(newest)
    sent: list[Checkpoint | None] = [None, None]
    if accelerator.process_index == source:
        sent = [own, load_checkpoint(best) if best.exists() else None]
    broadcast_object_list(sent, from_process=source)
    if is_older:
        for checkpoint, target in zip(reversed(sent), (best, path), strict=True):
            if checkpoint is not None:
                save_checkpoint(checkpoint, target)
    log(f"the checkpoint of process {source}, at step {newest}, is the newest; the nodes with an older one or none have it now")


@contextmanager
def lost_processes_named(command: str, checkpoint: Path) -> Iterator[None]:
    """While this is entered, errors of the connection to other processes say what to do.

    NCCL's own watchdog ends a process without an error that Python could catch.

    Args:
        command: of the run.
        checkpoint: where this node has it.

    Raises:
        TrainError: another process has ended, or has not answered for ``--wait-minutes``.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        if not isinstance(error, DistError) and not _OF_GLOO.search(reason):
            raise
        again = f"{command or 'the same command'}{'' if '--resume' in command.split() else ' --resume'}"
        kept = f"{checkpoint} is kept" if checkpoint.exists() else "the last checkpoint, if there is one, is kept"
        raise TrainError(
            f"lost another process or its node, whose own output may say why ({_shortened(reason)}); {kept}. Go on, "
            f"on one node or after torchrun on several, with: {again}"
        ) from error


def _shortened(reason: str) -> str:
    """A message of PyTorch without the place in its source, and without its advice."""
    return re.sub(r"^(\[[^\]]*\]\s*)+", "", reason).partition(". ")[0] or reason
