import copy

import pytest
import torch
from click.testing import CliRunner

from dhvt.cli.main import main as dhvt
from dhvt.data.preprocess import Preprocess
from dhvt.errors import ConfigError
from dhvt.model.checkpoint import Checkpoint
from dhvt.model.factory import build, configure, size_multiple
from export.pipeline import export_model
from export.to_onnx import main as export
from tests.dhvt.training.commands import run

LARGE = ["resnet50", "resnext50_32x4d", "seresnet50", "skresnet50", "res2net50_26w_4s"]


@pytest.mark.parametrize(
    "name",
    ["resnet18", "densenet121", *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)],
)
def test_the_papers_comparison_takes_small_images(name):
    config = configure(name, num_classes=5, img_size=32)
    model = build(name, config).eval()
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 5)
    assert min(model.forward_features(torch.randn(1, 3, 32, 32)).shape[-2:]) >= 2


def test_a_vision_transformer_gets_small_patches():
    config = configure("deit_tiny_patch16_224", num_classes=5, img_size=32)
    model = build("deit_tiny_patch16_224", config)
    assert model.forward_features(torch.randn(1, 3, 32, 32)).shape == (1, 65, 192)
    assert size_multiple(config) == 0


def test_a_model_of_timm_becomes_an_artifact(tmp_path):
    config = configure("resnet10t", num_classes=3, img_size=32)
    model = build("resnet10t", config)
    checkpoint = Checkpoint(
        name="resnet10t",
        config=config,
        weights=model.state_dict(),
        classes=["a", "b", "c"],
        preprocess=Preprocess(size=(32, 32)).to_dict(),
    )
    assert export_model(checkpoint, tmp_path / "artifact").card.architecture == "resnet10t"


def test_a_model_without_drop_path_goes_all_the_way(image_folder, tmp_path):
    """Trained with a recipe that has drop path, exported, and measured in the engine that serves it."""
    result = run(image_folder, tmp_path, "--variant", "ghostnet_050", "--recipe", "cifar100", "--epochs", "1")
    assert result.exit_code == 0, result.output
    assert "ghostnet_050 has no drop path; it is trained without the recipe's 0.1" in result.output
    result = CliRunner().invoke(export, [str(tmp_path / "ckpt.pt"), "--data", str(image_folder)])
    assert result.exit_code == 0, result.output
    measure = ["evaluate", "--model", str(tmp_path / "artifact"), "--data", str(image_folder), "--allow-overlap"]
    result = CliRunner().invoke(dhvt, measure)
    assert result.exit_code == 0, result.output
    assert "of 60 images" in result.output


def test_an_argument_that_a_model_does_not_know_is_refused():
    config = configure("ghostnet_050", num_classes=3, options={"drop_path_rate": 0.1})
    with pytest.raises(ConfigError, match="drop_path_rate"):
        build("ghostnet_050", config)


def test_a_model_with_several_last_layers_is_refused():
    config = configure("deit_tiny_distilled_patch16_224", num_classes=3)
    with pytest.raises(ConfigError, match="has several last layers"):
        build("deit_tiny_distilled_patch16_224", config)


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("resnet_50", "resnet50"),
        ("dhvt_tiny", "dhvt_tiny_cifar_patch4, dhvt_tiny_cifar_patch2, dhvt_tiny_domain_patch16"),
        ("dhvt_tiny_cifar_patch8", "dhvt_tiny_cifar_patch4"),
        ("deit_tiny_patch16_225", "deit_tiny_patch16_224"),
    ],
)
def test_an_unknown_model_gets_a_suggestion(name, suggested):
    with pytest.raises(ConfigError, match=rf"no model '{name}'; did you mean {suggested}"):
        configure(name, num_classes=3)


def test_a_name_like_dhvts_gets_no_other_models_name():
    with pytest.raises(ConfigError) as caught:
        configure("dhvt_huge", num_classes=3)
    assert "davit" not in str(caught.value)
    assert "the DHVT variants are dhvt_tiny_cifar_patch4" in str(caught.value)


@pytest.mark.parametrize("name", ["dhvt_tiny_cifar_patch4", "resnet18"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 7}, r"num_classes=7 cannot be set: .* \(--data\)"),
        ({"img_size": 64}, "img_size=64 cannot be set: give --img-size"),
        ({"in_chans": 1}, "in_chans=1 cannot be set: images have 3 channels"),
        ({"features_only": True}, "features_only=True cannot be set"),
    ],
)
def test_options_that_are_set_elsewhere_are_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        configure(name, num_classes=3, options=options)


def test_an_output_for_each_token_is_refused():
    with pytest.raises(ConfigError, match="a classifier needs one"):
        configure("dhvt_tiny_cifar_patch4", num_classes=3, options={"global_pool": ""})


@pytest.mark.parametrize(
    ("name", "drop_path_rate", "fixed"),
    [("deit_tiny_patch16_224", 0.1, True), ("resnet10t", 0.1, False), ("ghostnet_050", 0.0, False)],
)
def test_building_does_not_change_the_configuration(name, drop_path_rate, fixed):
    state = torch.get_rng_state()
    config = configure(name, num_classes=3, img_size=32, drop_path_rate=0.1)
    assert torch.equal(torch.get_rng_state(), state)
    assert (config["drop_path_rate"], config["fixed_input_size"]) == (drop_path_rate, fixed)
    before = copy.deepcopy(config)
    build(name, config)
    assert config == before
