"""A DHVT behaves as timm's vision transformers do, through timm's public functions.

timm's own ``tests/test_models.py`` runs on the eight variants too, where TIMM_CHECKOUT names a checkout of
huggingface/pytorch-image-models of the installed version:

    TIMM_CHECKOUT=../pytorch-image-models pytest -m slow tests/dhvt/model/test_timm_api.py

That file names the model families that give tokens instead of maps (``NON_STD_FILTERS``) and those with
``forward_intermediates`` (``FEAT_INTER_FILTERS``); DHVT is added to both, as a vision transformer in timm is.
"""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import get_notrace_functions, get_notrace_modules
from timm.optim import create_optimizer_v2
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from dhvt.errors import ConfigError
from dhvt.model.config import VARIANTS
from dhvt.model.dhvt import DHVT, create_model

TRACER = {
    "leaf_modules": get_notrace_modules(),
    "autowrap_functions": get_notrace_functions(),
    "param_shapes_constant": True,
}

pytestmark = pytest.mark.filterwarnings("ignore:The nodes obtained by tracing")
every_variant = pytest.mark.parametrize("name", VARIANTS)


def build(name, **changes):
    torch.manual_seed(0)
    return timm.create_model(name, **{"depth": 3, "drop_path_rate": 0.0} | changes)


def images(model, batch=2):
    torch.manual_seed(1)
    height, width = (min(side, 8 * model.config.patch_size) for side in model.config.img_size)
    return torch.randn(batch, model.config.in_chans, height, width)


def trace(model):
    """The model as FX traces it, once for training and once for evaluation."""
    train_nodes, eval_nodes = get_graph_node_names(model, tracer_kwargs=TRACER)
    return create_feature_extractor(
        model, train_return_nodes=[train_nodes[-1]], eval_return_nodes=[eval_nodes[-1]], tracer_kwargs=TRACER
    )


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@every_variant
def test_forward_is_head_of_features(name):
    model = build(name).eval()
    x = images(model)
    features = model.forward_features(x)
    assert features.shape == (2, 1 + 64, model.num_features)
    assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)
    torch.testing.assert_close(model.forward_head(features), model(x), rtol=1e-4, atol=1e-5)


@every_variant
def test_classifier_can_be_replaced_removed_and_pooled_otherwise(name):
    model = build(name).eval()
    x = images(model)
    pooled = model.forward_head(model.forward_features(x), pre_logits=True)
    classifier = model.get_submodule(model.default_cfg["classifier"])
    assert model.get_classifier() is classifier
    model.reset_classifier(7)
    assert model(x).shape == (2, 7)
    assert model.num_classes == model.config.num_classes == 7
    model.reset_classifier(0)
    assert torch.equal(model(x), pooled)
    assert isinstance(model.get_classifier(), torch.nn.Identity)
    model.reset_classifier(0, "")
    assert torch.equal(model(x), model.forward_features(x))
    model.reset_classifier(5, "avg")
    torch.testing.assert_close(model(x), model.head(model.forward_features(x)[:, 1:].mean(dim=1)))
    assert DHVT(model.config).state_dict().keys() == model.state_dict().keys()


@every_variant
def test_models_without_classifier_and_with_other_inputs(name):
    assert build(name, num_classes=0).eval()(images(build(name))).shape == (2, VARIANTS[name].embed_dim)
    grey = build(name, in_chans=1, num_classes=4, drop_rate=0.2, global_pool="avg").eval()
    assert grey(images(grey)).shape == (2, 4)
    assert grey.get_submodule(grey.default_cfg["first_conv"]).in_channels == 1
    plain = build(name, patch_embed="plain")
    assert isinstance(plain.get_submodule(plain.default_cfg["first_conv"]), torch.nn.Conv2d)


@every_variant
def test_features_only_gives_maps(name):
    model = build(name, features_only=True, out_indices=(0, 2)).eval()
    patch_size, dim = VARIANTS[name].patch_size, VARIANTS[name].embed_dim
    assert model.feature_info.channels() == [dim, dim]
    assert model.feature_info.reduction() == [patch_size, patch_size]
    x = torch.randn(2, 3, 8 * patch_size, 4 * patch_size)
    assert [tuple(feature.shape) for feature in model(x)] == [(2, dim, 8, 4)] * 2
    assert len(build(name, features_only=True).eval()(x)) == 3


@pytest.mark.parametrize("feature_cls", ["hook", "fx"])
def test_other_feature_extractors_see_every_token_of_the_last_block(feature_cls):
    model = build("dhvt_tiny_cifar_patch4", features_only=True, feature_cls=feature_cls, out_indices=(0, 2)).eval()
    whole = build("dhvt_tiny_cifar_patch4", num_classes=0).eval()
    x = images(whole)
    expected = whole.forward_intermediates(x, [0, 2], output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True)
    for feature, (patches, cls_token) in zip(model(x), expected, strict=True):
        torch.testing.assert_close(feature, torch.cat((cls_token, patches), dim=1))


@every_variant
def test_intermediates_end_in_the_features(name):
    model = build(name).eval()
    x = images(model)
    features, maps = model.forward_intermediates(x)
    assert torch.equal(features, model.forward_features(x))
    assert [tuple(feature.shape) for feature in maps] == [(2, model.embed_dim, 8, 8)] * 3
    patches, cls_token = model.forward_intermediates(
        x, 1, return_prefix_tokens=True, norm=True, output_fmt="NLC", intermediates_only=True
    )[0]
    assert torch.equal(torch.cat((cls_token, patches), dim=1), features)
    named = model.forward_intermediates(x, [0, -2], stop_early=True, output_dict=True, return_prefix_tokens=True)
    assert all(torch.equal(a, b) for a, b in zip(named["image_intermediates"], maps[:2], strict=True))
    assert [tuple(token.shape) for token in named["image_intermediates_prefix"]] == [(2, 1, model.embed_dim)] * 2
    assert named["image_features"].shape == features.shape


@pytest.mark.parametrize("indices", [0, 4, [3], [-4], []])
def test_blocks_that_are_not_there_are_refused(indices):
    model = build("dhvt_tiny_cifar_patch4")
    with pytest.raises(ConfigError, match="block"):
        model.forward_intermediates(images(model), indices)


@every_variant
def test_pruning_keeps_what_the_chosen_blocks_need(name):
    model = build(name).eval()
    x = images(model)
    expected = model.forward_intermediates(x, [0, 1], intermediates_only=True)
    assert model.prune_intermediate_layers([0, 1], prune_norm=True) == [0, 1]
    assert (len(model.blocks), model.config.depth, model.num_classes) == (2, 2, 0)
    found = model.forward_intermediates(x, [0, 1], intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@every_variant
def test_fx_traces_inference(name):
    model = build(name, depth=2).eval()
    x = images(model)
    with torch.inference_mode():
        (logits,) = trace(model)(x).values()
        assert torch.equal(logits, model(x))
        (other,) = trace(model)(images(model, batch=3)).values()
    assert other.shape == (3, model.num_classes)


@every_variant
def test_fx_traces_training(name):
    model = build(name, depth=2).train()
    x = images(model)
    model(x).square().mean().backward()
    expected = gradients(model)
    model.zero_grad()
    (logits,) = trace(model).train()(x).values()
    logits.square().mean().backward()
    assert gradients(model).keys() == expected.keys()
    for key, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[key])


def test_fx_keeps_the_check_of_the_image_size():
    traced = trace(build("dhvt_tiny_cifar_patch4", depth=1).eval())
    with pytest.raises(ConfigError, match="image 30x32 does not divide into patches of 4"):
        traced(torch.zeros(1, 3, 30, 32))


@every_variant
def test_layer_wise_learning_rates_cover_every_parameter(name):
    model = build(name)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1.0, weight_decay=0.1, layer_decay=0.5)
    grouped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert {id(parameter) for parameter in grouped} == {id(parameter) for parameter in model.parameters()}
    assert len(grouped) == len(list(model.parameters()))
    settings = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    scales = [settings[id(model.get_parameter(key))]["lr_scale"] for key in ("cls_token", "blocks.0.attn.qkv.weight")]
    scales += [settings[id(model.get_parameter(key))]["lr_scale"] for key in ("blocks.2.mlp.conv1.weight", "head.weight")]
    assert scales == sorted(scales)
    assert scales[0] < scales[1] < scales[2] < scales[3] == 1
    undecayed = ("cls_token", "blocks.1.attn.pos_embed", "norm.weight", "head.bias")
    assert all(settings[id(model.get_parameter(key))]["weight_decay"] == 0 for key in undecayed)
    assert settings[id(model.head.weight)]["weight_decay"] == 0.1


@every_variant
def test_gradient_checkpointing_changes_nothing(name):
    model = build(name, drop_path_rate=0.2).train()
    x, state = images(model), {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(2)
    model(x).square().mean().backward()
    expected, trained = gradients(model), {key: value.clone() for key, value in model.state_dict().items()}
    model.zero_grad()
    model.load_state_dict(state)
    model.set_grad_checkpointing()
    torch.manual_seed(2)
    model(x).square().mean().backward()
    for key, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[key])
    for key, value in model.state_dict().items():  # BatchNorm's running statistics among them
        torch.testing.assert_close(value, trained[key])
    assert model.blocks[0].mlp.bn1.momentum == 0.1


def test_input_size_can_be_changed():
    model = build("dhvt_tiny_cifar_patch4", pos_embed=True).eval()
    model.set_input_size((64, 32))
    assert model.config.img_size == (64, 32)
    assert model(torch.zeros(1, 3, 64, 32)).shape == (1, 100)
    with pytest.raises(ConfigError, match="does not divide"):
        model.set_input_size(30)
    with pytest.raises(ConfigError, match="patch size is 4 and cannot become 8"):
        model.set_input_size(patch_size=8)


def test_timm_loads_weights_from_a_file(tmp_path):
    trained = build("dhvt_tiny_cifar_patch4", num_classes=5).eval()
    path = tmp_path / "weights.pth"
    torch.save({"model": trained.state_dict()}, path)
    source = {"file": str(path), "num_classes": 5}
    model = timm.create_model("dhvt_tiny_cifar_patch4", pretrained=True, pretrained_cfg_overlay=source, depth=3).eval()
    x = images(trained)
    assert torch.equal(model(x), trained(x))
    other = timm.create_model(
        "dhvt_tiny_cifar_patch4", pretrained=True, pretrained_cfg_overlay=source, depth=3, num_classes=9
    ).eval()
    assert torch.equal(other.forward_features(x), trained.forward_features(x))


def test_hooks_on_the_last_block_are_called_in_evaluation_mode():
    model = create_model("dhvt_tiny_cifar_patch4", depth=1).eval()
    seen = []
    model.blocks[0].register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    model(images(model))
    assert seen == [(2, 1, 192)]


def test_the_documentations_code_runs():
    page = (Path(__file__).parents[3] / "docs" / "timm.md").read_text()
    exec("\n".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)), {})


def test_create_models_example_gives_what_it_shows():
    names = {"create_model": create_model, "torch": torch}
    example = doctest.DocTestParser().get_doctest(create_model.__doc__, names, "create_model", None, None)
    assert doctest.DocTestRunner().run(example) == (0, 1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif("TIMM_CHECKOUT" not in os.environ, reason="TIMM_CHECKOUT names no checkout of timm")
def test_timms_own_tests_pass(tmp_path):
    source = (Path(os.environ["TIMM_CHECKOUT"]) / "tests" / "test_models.py").read_text()
    for names, ours in (("NON_STD_FILTERS", "dhvt_*"), ("FEAT_INTER_FILTERS", "dhvt")):
        source, found = re.subn(rf"^{names} = \[", f"{names} = [{ours!r}, ", source, flags=re.MULTILINE)
        assert found == 1, f"timm's test file has no {names}"
    (tmp_path / "test_models.py").write_text("import dhvt.model.dhvt\n" + source)
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", ".", "-k", "dhvt and not torchscript"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-4000:]
    assert int(re.search(r"(\d+) passed", result.stdout).group(1)) >= 7 * len(VARIANTS)
