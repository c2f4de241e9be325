"""What of a model folder goes into BentoML's model store."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace

from dhvt.artifact import CARD_NAME, SIGNATURE_NAME, load_artifact, write_card

STORE = """
import sys, bentoml
from dhvt.artifact import load_artifact
from dhvt.store import store_artifact
print(bentoml.models.get(store_artifact(load_artifact(sys.argv[1]), "shapes:v1")).path)
"""


def store(folder, home):
    result = subprocess.run(
        [sys.executable, "-c", STORE, str(folder)],
        env=os.environ | {"BENTOML_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return load_artifact(result.stdout.splitlines()[-1])


def test_only_the_files_of_the_model_are_stored(artifact_path, tmp_path):
    folder = shutil.copytree(artifact_path, tmp_path / "artifact")
    (tmp_path / "secret").write_text("mine")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "notes.txt").write_text("mine")
    stored = store(folder, tmp_path / "bentoml")
    assert stored.digest == load_artifact(folder).digest
    assert {path.name for path in stored.path.iterdir()} == {CARD_NAME, *stored.card.files, "model.yaml"}  # BentoML's own


def test_what_was_added_to_a_model_is_stored_too(artifact_copy, tmp_path):
    whole = load_artifact(artifact_copy).card
    write_card(artifact_copy, replace(whole, variants=whole.variants[:1]))  # as without --target explain
    store(artifact_copy, tmp_path / "bentoml")
    write_card(artifact_copy, replace(whole, metrics={"test": {"top1": 90.0}}))
    (artifact_copy / SIGNATURE_NAME).write_text("signed")
    stored = store(artifact_copy, tmp_path / "bentoml")
    assert stored.card == load_artifact(artifact_copy).card
    assert {path.name for path in stored.path.iterdir()} == {path.name for path in artifact_copy.iterdir()} | {"model.yaml"}
    assert [path.name for path in stored.path.parent.iterdir() if path.is_dir()] == ["v1"]
