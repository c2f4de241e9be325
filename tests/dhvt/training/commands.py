"""The command line of a training, as the tests call it."""

import subprocess
import sys
import time

from click.testing import CliRunner

from dhvt.cli.main import main
from dhvt.model.checkpoint import load_checkpoint

STARTED = []
"""Processes of the test that runs; what is left of them at its end is killed."""

SMALL = ["--model-option", "depth=1", "--model-option", "embed_dim=32"]


def arguments(data, out, *options):
    size = [] if "--img-size" in options else ["--img-size", "32"]  # of images of 36 pixels, auto would take 48
    return ["train", "--data", str(data), "--out", str(out), "--device", "cpu", "--batch-size", "16", *size, *options]


def run(data, out, *options):
    return CliRunner().invoke(main, arguments(data, out, *options))


def start(data, out, *options):
    """In a process of its own, to be killed."""
    command = [sys.executable, "-m", "dhvt.cli", *arguments(data, out, *options)]
    STARTED.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
    return STARTED[-1]


def wait_until(condition):
    """Whether it came true within two minutes."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def interrupt_in_mid_epoch(process, path, how):
    """Waits for a checkpoint that is neither a beginning nor an end of an epoch of three steps."""
    assert wait_until(lambda: path.exists() and load_checkpoint(path).step % 3 == 1), "no checkpoint appeared"
    process.send_signal(how)
    return process.wait(timeout=60)
