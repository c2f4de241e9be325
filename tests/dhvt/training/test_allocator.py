"""A faster allocator, which training preloads where one is installed."""

import os
import shutil
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path

import pytest

from dhvt.training.allocator import ALLOCATORS
from tests.dhvt.training.commands import arguments, wait_until


@pytest.mark.skipif(not any(map(find_library, ALLOCATORS)), reason="neither jemalloc nor tcmalloc is installed")
def test_training_restarts_itself_with_a_faster_allocator(image_folder, tmp_path):
    script = shutil.which("dhvt", path=str(Path(sys.executable).parent))
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    command = [script, *arguments(image_folder, tmp_path, "--epochs", "50")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        found = wait_until(lambda: any(name in maps.read_text() for name in ALLOCATORS))
        process.kill()
    assert found


@pytest.mark.skipif(sys.platform != "linux" or not find_library("jemalloc"), reason="needs jemalloc on Linux")
def test_a_jemalloc_that_is_there_is_told_to_keep_memory(image_folder, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_CONF"}
    environment["LD_PRELOAD"] = find_library("jemalloc")
    script = shutil.which("dhvt", path=str(Path(sys.executable).parent))
    command = [script, *arguments(image_folder, tmp_path, "--epochs", "50")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        told = wait_until(lambda: b"MALLOC_CONF=" in Path(f"/proc/{process.pid}/environ").read_bytes())
        process.kill()
    assert told
