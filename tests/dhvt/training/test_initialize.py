import argparse
from dataclasses import replace

import pytest
import torch

from dhvt.errors import CheckpointError
from dhvt.model.checkpoint import from_authors, load_checkpoint, read_file, save_checkpoint, to_authors
from dhvt.model.config import DHVTConfig
from dhvt.model.dhvt import DHVT
from dhvt.model.factory import build, configure
from dhvt.training.config import Recipe
from dhvt.training.initialize import freeze_body, initialize
from dhvt.training.optim import build_optimizers
from tests.dhvt.training.commands import run


def small(**changes):
    values = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "num_heads": 4, "num_classes": 5, "depth": 2}
    return DHVT(DHVTConfig(**values | changes))


def test_other_classes_keep_everything_but_the_classifier(tmp_path):
    old, new = small(), small(num_classes=7, img_size=32)
    torch.save(to_authors(old.state_dict()), tmp_path / "authors.pth")
    assert initialize(new, tmp_path / "authors.pth") == ["head.weight", "head.bias"]
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(old.eval().forward_features(images), new.eval().forward_features(images))


def test_a_position_embedding_is_resampled(tmp_path):
    old, new = small(pos_embed=True), small(pos_embed=True, img_size=(16, 32))
    torch.save(old.state_dict(), tmp_path / "old.pth")
    assert initialize(new, tmp_path / "old.pth") == []
    assert new.pos_embed.shape == (1, 1 + 4 * 8, 32)
    assert torch.equal(old.pos_embed[:, 0], new.pos_embed[:, 0])


@pytest.mark.parametrize("prefix", ["class token alone", "class token and registers", "none has a position"])
def test_a_vision_transformer_of_timm_takes_another_image_size(tmp_path, prefix):
    options = {
        "class token alone": {},
        "class token and registers": {"reg_tokens": 2},
        "none has a position": {"no_embed_class": True},
    }[prefix]
    options = options | {"depth": 1, "embed_dim": 32, "num_heads": 2}
    old, new = (
        build("vit_tiny_patch16_224", configure("vit_tiny_patch16_224", num_classes=3, img_size=size, options=options))
        for size in (32, 48)
    )
    torch.save(old.state_dict(), tmp_path / "old.pth")
    assert initialize(new, tmp_path / "old.pth") == []
    assert new(torch.zeros(1, 3, 48, 48)).shape == (1, 3)
    own = 0 if prefix == "none has a position" else new.num_prefix_tokens
    assert new.pos_embed.shape == (1, own + 12 * 12, 32)
    assert torch.equal(old.pos_embed[:, :own], new.pos_embed[:, :own])


def test_a_grid_that_is_not_square_says_what_to_do(tmp_path):
    torch.save(small(pos_embed=True, img_size=(16, 32)).state_dict(), tmp_path / "old.pth")
    with pytest.raises(CheckpointError, match="train with the --img-size that it was made with"):
        initialize(small(pos_embed=True), tmp_path / "old.pth")


def test_the_file_that_the_authors_script_writes(tmp_path):
    old, new = small(), small()
    torch.save({"model": old.state_dict(), "epoch": 3, "args": argparse.Namespace(lr=1e-3)}, tmp_path / "authors.pth")
    assert initialize(new, tmp_path / "authors.pth") == []
    assert torch.equal(old.cls_token, new.cls_token)
    new.load_state_dict(from_authors(read_file(str(tmp_path / "authors.pth"))))


def test_our_checkpoints_give_their_moving_average(checkpoint, tmp_path):
    checkpoint = type(checkpoint)(**vars(checkpoint) | {"ema": {k: v * 0.5 for k, v in checkpoint.weights.items()}})
    save_checkpoint(checkpoint, tmp_path / "ckpt.pt")
    model = DHVT(DHVTConfig(**checkpoint.config))
    assert initialize(model, tmp_path / "ckpt.pt") == []
    assert torch.equal(model.cls_token, checkpoint.ema["cls_token"])


@pytest.mark.parametrize("other", [{"depth": 3}, {"embed_dim": 64}, {"attention": "mhsa"}])
def test_another_architecture_is_refused(tmp_path, other):
    torch.save(small(**other).state_dict(), tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"does not fit|of another architecture"):
        initialize(small(), tmp_path / "other.pth")


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_frozen_body_leaves_the_classifier(optimizer):
    model = small()
    freeze_body(model)
    optimizers = build_optimizers(model, Recipe(optimizer=optimizer))
    trained = [parameter for each in optimizers for group in each.param_groups for parameter in group["params"]]
    assert {id(parameter) for parameter in trained} == {id(model.head.weight), id(model.head.bias)}


def test_the_command_starts_from_a_checkpoint_and_changes_the_head_alone(image_folder, tmp_path):
    assert run(image_folder, tmp_path / "first", "--epochs", "1").exit_code == 0
    old, source = load_checkpoint(tmp_path / "first" / "ckpt.pt"), tmp_path / "other.pt"
    statistics = {name: value + 0.1 for name, value in old.ema.items() if "running_" in name}  # as of other images
    old = replace(old, ema=old.ema | statistics)
    save_checkpoint(old, source)
    result = run(image_folder, tmp_path / "second", "--epochs", "1", "--init", str(source), "--freeze")
    assert result.exit_code == 0, result.output
    new = load_checkpoint(tmp_path / "second" / "ckpt.pt")
    for weights in (new.weights, new.ema):  # the average too, which is what is validated and exported
        changed = {name for name, value in weights.items() if not torch.equal(value, old.ema[name])}
        assert changed == {"head.weight", "head.bias"}
