import importlib.util
import json
import subprocess
import sys

import pytest
import timm
import torch

from dhvt.errors import CheckpointError, ConfigError
from dhvt.model.checkpoint import from_authors, to_authors
from dhvt.model.config import VARIANTS, DHVTConfig
from dhvt.model.dhvt import DHVT, create_model

PARAMETERS = {
    "dhvt_tiny_cifar_patch4": 6_008_650,
    "dhvt_small_cifar_patch4": 23_425_450,
    "dhvt_tiny_cifar_patch2": 5_845_162,
    "dhvt_small_cifar_patch2": 22_766_698,
    "dhvt_tiny_domain_patch16": 6_105_975,
    "dhvt_small_domain_patch16": 23_788_431,
    "dhvt_tiny_imagenet_patch16": 6_267_334,
    "dhvt_small_imagenet_patch16": 24_040_606,
}


def small(**changes):
    values = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "num_heads": 4, "num_classes": 5, "depth": 2}
    return DHVTConfig(**values | changes)


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_variants_are_the_authors():
    assert set(VARIANTS) == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count_and_timm_registration(name):
    model = timm.create_model(name)
    assert isinstance(model, DHVT)
    assert count(model) == PARAMETERS[name]
    assert model.default_cfg["input_size"] == (3, *VARIANTS[name].img_size)


def test_timm_passes_fields_on_and_refuses_pretrained():
    model = timm.create_model("dhvt_tiny_cifar_patch4", num_classes=7, depth=1)
    assert (model.num_classes, len(model.blocks)) == (7, 1)
    with pytest.raises(ConfigError, match="no published weights"):
        timm.create_model("dhvt_tiny_cifar_patch4", pretrained=True)


@pytest.mark.parametrize("name", ["dhvt_tiny_cifar_patch4", "dhvt_tiny_imagenet_patch16"])
def test_logits_are_the_authors(name, shared):
    spec = importlib.util.spec_from_file_location("weights", shared / "oracle" / "weights.py")
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    expected = json.loads((shared / "oracle" / "logits.json").read_text())[name]
    model = create_model(name).eval()
    model.load_state_dict(from_authors({"model": weights.fill(model.state_dict())}), strict=True)
    with torch.inference_mode():
        logits = model(torch.from_numpy(weights.example(model.config.img_size[0])))
    assert torch.allclose(logits[:, :8], torch.tensor(expected["logits_head"]), atol=1e-4)
    assert logits.double().sum(1).tolist() == pytest.approx(expected["logits_sum"], abs=1e-3)
    assert logits.std(1, correction=0).tolist() == pytest.approx(expected["logits_std"], abs=1e-4)
    assert logits.argmax(1).tolist() == expected["argmax"]


@pytest.mark.parametrize("patch_embed", ["sope", "plain"])
@pytest.mark.parametrize("attention", ["himhsa", "mhsa"])
@pytest.mark.parametrize("feed_forward", ["daff", "mlp"])
@pytest.mark.parametrize("pos_embed", [True, False])
def test_ablation_switches_train_and_export(patch_embed, attention, feed_forward, pos_embed):
    config = small(
        patch_embed=patch_embed, attention=attention, feed_forward=feed_forward, pos_embed=pos_embed, img_size=(16, 24)
    )
    model = DHVT(config)
    model(torch.randn(3, 3, 16, 24)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.eval()
    program = torch.export.export(model, (torch.randn(2, 3, 16, 24),), dynamic_shapes={"x": {0: torch.export.Dim("batch")}})
    images = torch.randn(5, 3, 16, 24)
    assert torch.allclose(program.module()(images), model(images), atol=1e-5)


def test_deit_ablation_has_deits_size():
    config = DHVTConfig(
        img_size=224, patch_size=16, embed_dim=192, num_heads=3, num_classes=1000,
        patch_embed="plain", attention="mhsa", feed_forward="mlp", pos_embed=True,
    )  # fmt: skip
    assert count(DHVT(config)) == count(timm.create_model("deit_tiny_patch16_224"))


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_a_image_does_not_depend_on_its_batch(batch):
    model = DHVT(small()).eval()
    images = torch.randn(7, 3, 16, 16)
    with torch.inference_mode():
        assert torch.allclose(model(images)[:batch], model(images[:batch]), atol=1e-5)


@pytest.mark.parametrize("feed_forward", ["daff", "mlp"])
def test_the_shortcut_for_the_class_token_changes_nothing(feed_forward):
    torch.manual_seed(0)
    model = create_model("dhvt_tiny_cifar_patch4", depth=3, feed_forward=feed_forward)
    with torch.no_grad():
        for _ in range(5):
            model(torch.randn(8, 3, 32, 32))  # BatchNorm has seen something
        model.eval()
        images = torch.randn(4, 3, 32, 32)
        torch.testing.assert_close(model(images), model.forward_head(model.forward_features(images)), rtol=1e-5, atol=1e-5)


def test_other_sizes_without_position_embedding_only():
    images = torch.randn(2, 3, 24, 32)
    assert DHVT(small()).eval()(images).shape == (2, 5)
    with pytest.raises(ConfigError, match="position embedding"):
        DHVT(small(pos_embed=True)).eval()(images)
    with pytest.raises(ConfigError, match="does not divide into patches"):
        DHVT(small()).eval()(torch.randn(2, 3, 18, 16))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"img_size": 30}, "does not divide into patches"),
        ({"num_heads": 5}, "does not divide into 5 heads"),
        ({"patch_size": 3, "img_size": 15}, "SOPE has patch sizes"),
        ({"attention": "linear"}, "choose one of himhsa, mhsa"),
        ({"num_classes": -1}, "positive integer"),
        ({"depth": 0}, "positive integer"),
        ({"global_pool": "map"}, "choose one of token, avg"),
        ({"drop_rate": 1.0}, "drop_rate"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        small(**changes)


def test_unknown_names_and_fields_are_refused():
    with pytest.raises(ConfigError, match="no variant 'dhvt_huge'"):
        create_model("dhvt_huge")
    with pytest.raises(ConfigError, match="has no field heads"):
        create_model("dhvt_tiny_cifar_patch4", heads=3)


def test_authors_files_both_ways():
    state = DHVT(small()).state_dict()
    assert from_authors(to_authors(state)).keys() == state.keys()
    assert from_authors(state).keys() == state.keys()
    wrapped = {"model": {}, "model_ema": {f"module.{key}": value for key, value in state.items()}}
    DHVT(small()).load_state_dict(from_authors(wrapped, ema=True), strict=True)
    with pytest.raises(CheckpointError, match="expected the authors' state dict"):
        from_authors({"model": {"epoch": 3}})
    with pytest.raises(CheckpointError, match="no model_ema"):
        from_authors(to_authors(state), ema=True)


def test_reset_classifier():
    model = DHVT(small())
    model.reset_classifier(9)
    assert model(torch.randn(2, 3, 16, 16)).shape == (2, 9)
    assert model.config.num_classes == 9


def test_serving_and_configuration_import_no_torch():
    modules = "dhvt, dhvt.model.config, dhvt.data.splits, dhvt.cli.main, serving.service"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_architectures_configuration_imports_neither_torch_nor_pillow():
    code = "import sys, dhvt.model.config; assert not {'torch', 'PIL', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
