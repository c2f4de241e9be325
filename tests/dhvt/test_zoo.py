import pytest
import torch

from dhvt.checkpoint import Checkpoint
from dhvt.config import Preprocess
from dhvt.errors import ConfigError
from dhvt.zoo import build, configure, size_multiple
from export.to_onnx import export_onnx

LARGE = ["resnet50", "resnext50_32x4d", "seresnet50", "skresnet50", "res2net50_26w_4s"]


@pytest.mark.parametrize(
    "name",
    ["resnet18", "densenet121", *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)],
)
def test_the_papers_comparison_takes_small_pictures(name):
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
    assert export_onnx(checkpoint, tmp_path / "artifact").card.name == "resnet10t"


def test_an_unknown_model_gets_a_suggestion():
    with pytest.raises(ConfigError, match=r"did you mean .*resnet50"):
        configure("resnet_50", num_classes=3)
