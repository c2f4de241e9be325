import json

import pytest

from dhvt.artifact import load_artifact, write_card, writing_artifact
from dhvt.errors import ArtifactError


def edit_json(change):
    def apply(root):
        values = json.loads((root / "model.json").read_text())
        change(values)
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


def test_what_is_no_model_folder(tmp_path):
    with pytest.raises(ArtifactError, match="does not exist"):
        load_artifact(tmp_path / "absent")
    with pytest.raises(ArtifactError, match=r"has no model\.json"):
        load_artifact(tmp_path)


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


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ArtifactError, match="is no model folder"), writing_artifact(tmp_path):
        pass
    assert (tmp_path / "thesis.tex").exists()


def test_the_card_survives_a_round_trip(artifact_copy):
    card = load_artifact(artifact_copy).card
    assert write_card(artifact_copy, card) == card
    assert load_artifact(artifact_copy).card == card
