"""``--pretrained``: timm's published weights, here from a local file; and weights in safetensors."""

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from dhvt.model.checkpoint import load_checkpoint
from dhvt.model.factory import build, configure
from dhvt.model.pretrained import published_size
from tests.dhvt.training.commands import run

TINY = ["--variant", "test_resnet", "--img-size", "64", "--epochs", "1"]
STILL = ["--lr", "1e-12", "--min-lr", "0", "--warmup-lr", "0", "--resolutions", "1:1", "--drop-path-rate", "0"]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file as timm publishes it, of 1,000 classes, and its tensors."""
    path = tmp_path_factory.mktemp("published") / "model.safetensors"
    torch.manual_seed(5)
    state = {name: value.contiguous() for name, value in timm.create_model("test_resnet").state_dict().items()}
    save_file(state, path)
    return path, state


def test_a_downloaded_file_gives_weights_normalisation_and_first_layers(image_folder, published, tmp_path):
    path, state = published
    result = run(image_folder, tmp_path, *TINY, *STILL, "--pretrained", "--init", str(path))
    assert result.exit_code == 0, result.output
    saved = load_checkpoint(tmp_path / "best.pt")
    for name in ("conv1.0.weight", "layer4.0.conv2.weight"):  # the stem is not one for small images
        torch.testing.assert_close(saved.weights[name], state[name], atol=1e-6, rtol=0)
    assert saved.weights["fc.weight"].shape[0] == 3
    assert (saved.preprocess["mean"], saved.preprocess["interpolation"]) == ((0.5, 0.5, 0.5), "bilinear")
    torch.testing.assert_close(saved.build_model().state_dict()["conv1.0.weight"], state["conv1.0.weight"])
    resumed = run(image_folder, tmp_path, *TINY, *STILL, "--pretrained", "--resume")  # without the file, and offline
    assert resumed.exit_code == 0, resumed.output


def test_a_run_that_starts_from_or_resumes_a_pretrained_one_keeps_its_first_layers_normalisation_and_size(
    image_folder, published, tmp_path
):
    first, second = tmp_path / "first", tmp_path / "second"
    assert run(image_folder, first, *TINY, *STILL, "--pretrained", "--init", str(published[0])).exit_code == 0
    open_size = ["--variant", "test_resnet", "--img-size", "auto", "--epochs", "1", *STILL]
    resumed = run(image_folder, first, *open_size, "--pretrained", "--resume")
    assert resumed.exit_code == 0, resumed.output
    for options in (TINY, ["--img-size", "auto", "--epochs", "1"]):
        out = second / options[1]
        result = run(image_folder, out, *options, *STILL, "--init", str(first / "ckpt.pt"))
        assert result.exit_code == 0, result.output
        assert "re-initialised: nothing" in result.output
        saved, original = load_checkpoint(out / "ckpt.pt"), load_checkpoint(first / "ckpt.pt")
        assert (saved.preprocess, saved.config) == (original.preprocess, original.config)
        again = run(image_folder, out, *options, *STILL, "--init", str(tmp_path / "gone.pt"), "--resume")
        assert again.exit_code == 0, again.output


def test_the_image_size_is_by_default_that_of_the_weights():
    assert published_size("test_resnet") == 160
    assert configure("test_resnet", num_classes=3, pretrained=True)["img_size"] == (160, 160)
    small = configure("test_vit", num_classes=3, pretrained=True, img_size=64)
    assert build("test_vit", small).patch_embed.patch_size == (16, 16)


def test_a_file_of_another_model_is_refused_in_one_line(image_folder, published, tmp_path):
    state = published[1]
    save_file({name: value for name, value in state.items() if "layer3" not in name}, tmp_path / "part.safetensors")
    options = [*TINY, "--pretrained", "--init"]
    result = run(image_folder, tmp_path / "run", *options, str(tmp_path / "part.safetensors"))
    assert result.exit_code == 1
    assert "lacks weights of timm's test_resnet, among them layer3" in result.output
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    assert (
        "broken.safetensors has no weights"
        in run(image_folder, tmp_path / "run", *options, str(tmp_path / "broken.safetensors")).output
    )
    refused = run(image_folder, tmp_path / "run", "--init", str(tmp_path / "broken.safetensors"), "--epochs", "1")
    assert "cannot be read as safetensors" in refused.output


def test_without_a_network_one_line_says_what_to_do(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    result = run(image_folder, tmp_path / "run", *TINY, "--pretrained")
    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    lines = [line for line in result.output.splitlines() if "cannot be loaded from the Hugging Face Hub" in line]
    assert lines[0].endswith("--pretrained --init model.safetensors")
    assert constants.HF_HUB_OFFLINE is False


def test_a_dhvt_has_no_pretrained_weights(image_folder, tmp_path):
    result = run(image_folder, tmp_path, "--pretrained", "--variant", "dhvt_tiny_cifar_patch4")
    assert result.exit_code == 1
    assert "there are no pretrained weights of dhvt_tiny_cifar_patch4" in result.output
    assert "--pretrained needs a --variant" in run(image_folder, tmp_path, "--pretrained").output


def test_weights_in_safetensors_are_an_init(tmp_path, checkpoint):
    from dhvt.training.initialize import initialize

    save_file({name: value.contiguous() for name, value in checkpoint.weights.items()}, tmp_path / "model.safetensors")
    model = build(checkpoint.name, checkpoint.config)
    assert initialize(model, tmp_path / "model.safetensors") == []
    assert all(torch.equal(value, checkpoint.weights[name]) for name, value in model.state_dict().items())
