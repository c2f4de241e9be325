"""The memory allocator of this process: jemalloc or tcmalloc, preloaded by a restart."""

from __future__ import annotations

import os
import sys
from ctypes.util import find_library
from pathlib import Path

ALLOCATORS = ("jemalloc", "tcmalloc", "tcmalloc_minimal")  # in order of preference
JEMALLOC_CONF = "thp:always,dirty_decay_ms:-1,muzzy_decay_ms:-1,metadata_thp:always"


def restart_with_allocator() -> None:
    """Replaces this process by itself with jemalloc or tcmalloc preloaded, where one is installed (on Linux).

    The C library returns a training step's activations to the system and takes them back in the next one, so that on
    a CPU up to a third of the time goes to the kernel clearing pages. These two keep them; jemalloc, when it is told to.
    """
    preloaded = os.environ.get("LD_PRELOAD")
    is_untold_jemalloc = preloaded is not None and "jemalloc" in preloaded and "MALLOC_CONF" not in os.environ
    if sys.platform != "linux" or not (preloaded is None or is_untold_jemalloc):
        return
    library = preloaded or _find_allocator()
    if library is not None:
        environment = {"MALLOC_CONF": JEMALLOC_CONF} | os.environ | {"LD_PRELOAD": str(library)}
        os.execve(sys.executable, sys.orig_argv, environment)


def _find_allocator() -> Path | None:
    folders = [Path(name) for name in ("/usr/lib", "/usr/lib64", "/usr/local/lib", f"/usr/lib/{os.uname().machine}-linux-gnu")]
    files = [file for file in map(find_library, ALLOCATORS) if file]
    return next((folder / file for file in files for folder in folders if (folder / file).exists()), None)
