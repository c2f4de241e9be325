import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dhvt.artifact import Variant, load_artifact, write_card, writing_artifact
from dhvt.data.preprocess import Preprocess
from dhvt.errors import ArtifactError
from dhvt.files import exchange


def edit_json(change):
    def apply(root):
        values = json.loads((root / "model.json").read_text())
        change(values)
        (root / "model.json").write_text(json.dumps(values))

    return apply


def forge(change):
    """An edit by someone who also corrects the card's own hash."""

    def apply(root):
        values = json.loads((root / "model.json").read_text())
        change(values)
        content = {key: value for key, value in values.items() if key != "sha256"}
        values["sha256"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        (root / "model.json").write_text(json.dumps(values))

    return apply


def append_byte(root):
    with (root / "model.onnx").open("ab") as file:
        file.write(b"\0")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (append_byte, "model.onnx is not the exported file"),
        (lambda root: (root / "model.onnx").unlink(), "model.onnx is missing"),
        (lambda root: (root / "model.json").unlink(), "is no model folder"),
        (lambda root: (root / "model.json").write_text("{"), "cannot be read"),
        (lambda root: (root / "model.json").write_text("[]"), "is not of format"),
        (edit_json(lambda card: card["classes"].reverse()), "was changed since it was written"),
        (edit_json(lambda card: card.pop("sha256")), "was changed since it was written"),
    ],
)
def test_damage_is_found(artifact_copy, damage, message):
    damage(artifact_copy)
    with pytest.raises(ArtifactError, match=message):
        load_artifact(artifact_copy)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "sub/model.bin", "..", ".", "", ".hidden", "a\\b", "C:secret", "model.json", "a\0", 3]
)
def test_a_file_outside_the_folder_is_refused(artifact_copy, name):
    (artifact_copy.parent / "secret").write_text("token")
    (artifact_copy / "sub").mkdir()
    (artifact_copy / "sub" / "model.bin").write_text("token")
    digest = hashlib.sha256(b"token").hexdigest()

    def point_at(card):
        card["variants"].append({"format": "onnx", "precision": "fp16", "files": [name], "hardware": {}, "parity": {}})
        card["files"][str(name)] = digest

    forge(point_at)(artifact_copy)
    with pytest.raises(ArtifactError, match="is not a plain file name inside the model folder"):
        load_artifact(artifact_copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card["files"].update({"../secret": "0" * 64}), "records hashes of"),
        (lambda card: card["files"].clear(), "records hashes of no file"),
        (lambda card: card["variants"].clear(), r"records hashes of model\.explain\.onnx, model\.onnx, expected"),
        (lambda card: card["variants"][0].update(files=[]), "has no file"),
        (lambda card: card["variants"][0].update(color="red"), "Variant has no field color"),
        (lambda card: card.update(variants=7), "is invalid"),
        (lambda card: card.update(golden=None), "is invalid"),
        (lambda card: card.update(files=["model.onnx"]), "records no SHA-256"),
        (lambda card: card.update(format="dhvt-artifact-2"), "is not of format 'dhvt-artifact-3'; export the model again"),
        (lambda card: card.update(name="My Hands"), "name is 'My Hands'; give up to 63 of a-z"),
        (lambda card: card.update(version=""), "version is ''; give up to 63"),
    ],
)
def test_a_card_of_another_shape_is_refused(artifact_copy, change, message):
    forge(change)(artifact_copy)
    with pytest.raises(ArtifactError, match=message):
        load_artifact(artifact_copy)


def test_variants_are_found_and_replaced(artifact_copy):
    card = load_artifact(artifact_copy).card
    engine = Variant(format="tensorrt", precision="fp16", files=("model.engine",))
    grown = card.with_variant(engine)
    assert grown.find_variant(format="tensorrt") == grown.find_variant(precision="fp16") == engine
    assert grown.find_variant(format="tensorrt", precision="bf16") is None
    assert grown.find_variant(format="onnx", precision="fp32") == card.variants[0]
    other = Variant(format="tensorrt", precision="bf16", files=("model.engine",))
    assert grown.with_variant(other).variants == (*card.variants, other)
    shutil.copy(artifact_copy / "model.onnx", artifact_copy / "model.engine")
    written = write_card(artifact_copy, grown)
    assert written.files["model.engine"] == written.files["model.onnx"]
    artifact = load_artifact(artifact_copy)
    assert artifact.path_of(artifact.find_variant(format="tensorrt")) == artifact_copy / "model.engine"
    assert write_card(artifact_copy, card).files.keys() == {"model.explain.onnx", "model.onnx"}


def test_what_is_no_model_folder(tmp_path):
    with pytest.raises(ArtifactError, match="does not exist"):
        load_artifact(tmp_path / "absent")
    with pytest.raises(ArtifactError, match=r"has no model\.json"):
        load_artifact(tmp_path)


def test_all_files_are_on_the_disk_before_the_old_folder_goes(artifact_copy, monkeypatch):
    """Else a power cut could leave empty files in the new one, and nothing of the old one."""
    done, fsync = [], os.fsync

    def record_sync(descriptor):
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def record_exchange(first, second):
        done.append(f"exchange with {second.name}")
        return exchange(first, second)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr("dhvt.artifact.exchange", record_exchange)
    names = [path.name for path in artifact_copy.iterdir()]
    with writing_artifact(artifact_copy) as folder:
        shutil.copytree(artifact_copy, folder, dirs_exist_ok=True)
    assert {*names, folder.name} == {*done[:-2]}
    assert done[-2:] == [f"exchange with {artifact_copy.name}", artifact_copy.parent.name]


def test_a_failed_write_leaves_the_old_folder(artifact_copy):
    before = load_artifact(artifact_copy).card

    def fail():
        with writing_artifact(artifact_copy) as folder:
            (folder / "model.onnx").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert load_artifact(artifact_copy).card == before
    assert [path.name for path in artifact_copy.parent.iterdir()] == ["artifact"]


@pytest.mark.parametrize("name", ["thesis.tex", "model.json"])
def test_a_folder_of_something_else_is_not_replaced(tmp_path, name):
    (tmp_path / name).write_text('{"format": "layers-model"}')
    with pytest.raises(ArtifactError, match="is no model folder"), writing_artifact(tmp_path):
        pass
    assert (tmp_path / name).exists()


def test_what_somebody_put_into_the_folder_stays_and_what_the_old_model_had_goes(artifact_copy):
    (artifact_copy / ".git").mkdir()
    (artifact_copy / ".git" / "HEAD").write_text("ref")
    (artifact_copy / "notes.txt").write_text("mine")
    with writing_artifact(artifact_copy) as folder:
        (folder / "new").touch()
    assert {path.name for path in artifact_copy.iterdir()} == {"new", ".git", "notes.txt"}
    assert (artifact_copy / ".git" / "HEAD").read_text() == "ref"


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_link_goes_on_pointing_to_the_folder(artifact_copy, monkeypatch, exchanges):
    if not exchanges:
        monkeypatch.setattr("dhvt.artifact.exchange", lambda *_: False)
    link = artifact_copy.with_name("current")
    link.symlink_to(artifact_copy.name)
    with writing_artifact(link) as folder:
        (folder / "new").touch()
    assert [path.name for path in artifact_copy.iterdir()] == ["new"]
    assert link.is_symlink()
    assert {path.name for path in link.parent.iterdir()} == {"artifact", "current"}


@pytest.mark.skipif(sys.platform != "linux", reason="exchanging two folders in one step is of Linux")
def test_a_kill_leaves_the_old_folder_or_the_new_one(artifact_copy):
    """At each step of what replaces it, ended by the system: the folder is never missing."""
    script = (
        "import os, sys; from dhvt.artifact import writing_artifact\n"
        "steps = int(sys.argv[2]); names = ('os.rename', 'shutil.rmtree')\n"
        "def hook(event, arguments):\n"
        "    global steps\n"
        "    if event in names and (steps := steps - 1) < 0: os._exit(9)\n"
        "with writing_artifact(sys.argv[1]) as folder:\n"
        "    (folder / 'model.json').touch(); sys.addaudithook(hook)\n"
    )
    for steps in range(4):
        subprocess.run([sys.executable, "-c", script, artifact_copy, str(steps)], check=False)
        assert (artifact_copy / "model.json").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="without locks nothing is removed")
def test_what_a_killed_command_left_is_removed_by_the_next(artifact_copy):
    script = (
        "import os, sys; from dhvt.artifact import writing_artifact\n"
        "with writing_artifact(sys.argv[1]) as folder: (folder / 'model.onnx').touch(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script, artifact_copy], check=False)
    (left,) = artifact_copy.parent.glob(".*")
    with writing_artifact(artifact_copy) as folder:
        os.utime(folder, (0, 0))
        shutil.copytree(artifact_copy, folder, dirs_exist_ok=True)
        assert left.exists()  # it may have just begun
        os.utime(left, (0, 0))
        os.utime(folder, (0, 0))
        with writing_artifact(artifact_copy) as other:
            shutil.copytree(artifact_copy, other, dirs_exist_ok=True)
            assert not left.exists()
            assert folder.exists()  # which is still being written
    load_artifact(artifact_copy)


@pytest.mark.parametrize("name", ["model.json", "model.onnx"])
def test_a_file_that_cannot_be_read_is_a_clear_error(artifact_copy, name):
    (artifact_copy / name).unlink()
    (artifact_copy / name).symlink_to(name)
    with pytest.raises(ArtifactError, match=f"{name} cannot be read: Too many levels of symbolic links$"):
        load_artifact(artifact_copy)


def test_a_card_of_too_many_brackets_is_a_clear_error(artifact_copy):
    (artifact_copy / "model.json").write_text("[" * 200_000)
    with pytest.raises(ArtifactError, match=r"model\.json cannot be read"):
        load_artifact(artifact_copy)


def test_recording_in_a_folder_that_has_another_model_by_now_is_refused(artifact_copy):
    artifact = load_artifact(artifact_copy)
    write_card(artifact_copy, replace(artifact.card, temperature=2.0))
    with pytest.raises(ArtifactError, match="has another model than when"):
        artifact.reload_card()


def test_the_card_survives_a_round_trip(artifact_copy):
    card = load_artifact(artifact_copy).card
    assert write_card(artifact_copy, card) == card
    assert load_artifact(artifact_copy).card == card


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ["disc", "square", "stripes"]},
        {"temperature": 2.0},
        {"preprocess": Preprocess(size=(32, 32), resize_mode="pad")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_an_answer_changes_the_digest(artifact_copy, change):
    before = load_artifact(artifact_copy)
    write_card(artifact_copy, replace(before.card, metrics={"test": {"top1": 1.0}}, name="other"))
    assert load_artifact(artifact_copy).digest == before.digest
    write_card(artifact_copy, replace(before.card, **change))
    assert load_artifact(artifact_copy).digest != before.digest


def test_recording_in_a_folder_with_a_damaged_file_is_refused(artifact_copy):
    artifact = load_artifact(artifact_copy)
    graph = artifact_copy / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match="is not the exported file"):
        artifact.reload_card()
