"""What of a model folder goes into BentoML's model store."""

import os
import shutil
import subprocess
import sys

from dhvt.artifact import CARD_NAME, load_artifact

STORE = """
import sys, bentoml
from dhvt.artifact import load_artifact
from dhvt.store import store_artifact
print(bentoml.models.get(store_artifact(load_artifact(sys.argv[1]), "shapes:v1")).path)
"""


def test_only_the_files_of_the_model_are_stored(artifact_path, tmp_path):
    folder = shutil.copytree(artifact_path, tmp_path / "artifact")
    (tmp_path / "secret").write_text("mine")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "notes.txt").write_text("mine")
    environ = os.environ | {"BENTOML_HOME": str(tmp_path / "bentoml")}
    result = subprocess.run(
        [sys.executable, "-c", STORE, str(folder)], env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    stored = load_artifact(result.stdout.splitlines()[-1])
    assert stored.digest == load_artifact(folder).digest
    assert {path.name for path in stored.path.iterdir()} == {CARD_NAME, *stored.card.files, "model.yaml"}  # BentoML's own
