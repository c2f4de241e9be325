import dataclasses
import pathlib
import zipfile

import pytest
import torch

from dhvt.errors import CheckpointError
from dhvt.model.checkpoint import FORMAT, load_checkpoint, read_file, save_checkpoint
from tests.conftest import draw, encode

ADVICE = ("weights_only", "torch.load", "allowlist", "safe_globals", "\n")


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        read_file(path)
    message = str(caught.value)
    assert not [words for words in ADVICE if words in message], message
    assert str(path) in message
    return message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (encode(draw(0, 0), "JPEG"), "it is a JPEG file"),
        (encode(draw(0, 0), "PNG"), "it is a PNG file"),
        (b"", "it is empty"),
        (b"just some text", "of another kind"),
        (bytes(range(256)) * 8, "of another kind"),
    ],
)
def test_files_that_are_no_checkpoint_get_one_clear_line(content, reason, tmp_path):
    path = tmp_path / "ckpt.pt"
    path.write_bytes(content)
    assert reason in refusal(path)
    with pytest.raises(CheckpointError, match=reason):
        load_checkpoint(path)


def test_folders_zip_archives_and_missing_files(tmp_path):
    assert "is a folder; give the checkpoint file" in refusal(tmp_path)
    assert "no checkpoint at" in refusal(tmp_path / "missing.pt")
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", encode(draw(0, 0)))
    assert "it is a zip archive of something else" in refusal(path)


def test_objects_that_could_run_code_are_named_and_not_loaded(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"model": pathlib.PurePosixPath("x")}, path)
    assert "it holds a Python object of type pathlib.PurePosixPath" in refusal(path)


def test_a_truncated_checkpoint_is_damaged(checkpoint, tmp_path):
    path = tmp_path / "ckpt.pt"
    save_checkpoint(checkpoint, path)
    path.write_bytes(path.read_bytes()[:-5000])
    assert "it is damaged or incomplete" in refusal(path)


def test_every_field_survives_a_file(checkpoint, tmp_path):
    data = {"training": {"images": 48, "digest": "ab", "folder": "x"}, "validation": {"images": 12}, "val_fraction": 0.2}
    saved = dataclasses.replace(checkpoint, data=data, step=3, frozen=True)
    save_checkpoint(saved, tmp_path / "ckpt.pt")
    loaded = load_checkpoint(tmp_path / "ckpt.pt")
    for entry in dataclasses.fields(saved):
        if entry.name != "weights":
            assert getattr(loaded, entry.name) == getattr(saved, entry.name), entry.name
    assert all(torch.equal(loaded.weights[key], value) for key, value in saved.weights.items())


def test_the_configuration_of_an_older_checkpoint_is_completed(checkpoint, tmp_path):
    values = {entry.name: getattr(checkpoint, entry.name) for entry in dataclasses.fields(checkpoint)}
    values["config"] = {key: value for key, value in checkpoint.config.items() if key not in ("global_pool", "drop_rate")}
    torch.save({"format": FORMAT} | values, tmp_path / "ckpt.pt")
    assert load_checkpoint(tmp_path / "ckpt.pt").config == checkpoint.config
    values["config"] = {"library": "timm", "num_classes": 3, "img_size": (32, 32), "drop_path_rate": 0.0, "options": {}}
    torch.save({"format": FORMAT} | values, tmp_path / "ckpt.pt")
    assert load_checkpoint(tmp_path / "ckpt.pt").config["fixed_input_size"] is False


def test_a_full_disk_keeps_the_checkpoint_before(checkpoint, tmp_path, monkeypatch):
    path = tmp_path / "ckpt.pt"
    save_checkpoint(checkpoint, path)
    before = path.read_bytes()

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(CheckpointError, match="No space left"):
        save_checkpoint(checkpoint, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_checkpoint_says_so(tmp_path):
    path = tmp_path / "ckpt.pt"
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_checkpoint(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(path)
    torch.save({"model": {}}, path)
    with pytest.raises(CheckpointError, match="no checkpoint of dhvt train"):
        load_checkpoint(path)
