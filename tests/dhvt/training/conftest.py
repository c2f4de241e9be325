"""A finished run, which tests copy."""

import pytest

from dhvt.model.checkpoint import load_checkpoint
from tests.dhvt.training.commands import run


@pytest.fixture(scope="session")
def unbroken(image_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken")
    result = run(image_folder, out, "--epochs", "2", "--drop-path-rate", "0.2", "--cutmix", "1", "--mix-prob", "0.5")
    assert result.exit_code == 0, result.output
    return result, load_checkpoint(out / "ckpt.pt"), out
