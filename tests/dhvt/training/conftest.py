"""A finished run, which tests copy."""

from contextlib import suppress

import psutil
import pytest

from dhvt.model.checkpoint import load_checkpoint
from tests.dhvt.training.commands import STARTED, run


@pytest.fixture(autouse=True)
def end_of_trainings():
    """None of a test that failed goes on beside the next."""
    yield
    while STARTED:
        process = STARTED.pop()
        with suppress(psutil.NoSuchProcess):
            for part in (*psutil.Process(process.pid).children(recursive=True), process):
                part.kill()
        process.wait()


@pytest.fixture(scope="session")
def unbroken(image_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken")
    result = run(image_folder, out, "--epochs", "2", "--drop-path-rate", "0.2", "--cutmix", "1", "--mix-prob", "0.5")
    assert result.exit_code == 0, result.output
    return result, load_checkpoint(out / "ckpt.pt"), out
