"""One step where only a GPU usually gets: in fp16, with gradients that overflow."""

import pytest
import torch

from dhvt.data.preprocess import Preprocess
from dhvt.model.factory import build, configure
from dhvt.training.batch import TrainingBatch
from dhvt.training.config import Recipe
from dhvt.training.distributed import open_accelerator
from dhvt.training.step import TrainState
from dhvt.training.transforms import BatchTransform

OPTIONS = {"depth": 1, "embed_dim": 32}


@pytest.mark.parametrize("clip_grad", [0.0, 1.0])
@pytest.mark.parametrize("overflow", [float("inf"), float("nan")])
def test_an_overflow_in_one_optimizers_gradients_stops_the_step_of_both(clip_grad, overflow):
    """Muon has the matrices, AdamW the rest; the scaler is PyTorch's own for the CPU."""
    torch.manual_seed(0)
    accelerator = open_accelerator("cpu", "off")
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    model = build("dhvt_tiny_cifar_patch4", configure("dhvt_tiny_cifar_patch4", num_classes=3, options=OPTIONS)).train()
    recipe = Recipe(clip_grad=clip_grad, warmup_epochs=0, epochs=2)
    transform = BatchTransform(recipe, Preprocess(size=(32, 32)), accelerator.device, num_classes=3, size_multiple=4)
    state = TrainState(model, recipe, accelerator, transform, steps_per_epoch=1)
    images, keys = torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8), torch.tensor([[0, i, 0] for i in range(6)])
    batch = TrainingBatch(images, torch.tensor([0, 1, 2] * 2), keys, [])
    matrix = model.blocks[0].attn.qkv.weight
    hook = matrix.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([0]), overflow))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    state.train_batch(batch)
    state.losses.check()
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    assert accelerator.scaler.get_scale() == 512
    hook.remove()
    state.train_batch(batch)
    assert accelerator.scaler.get_scale() == 512
    assert not torch.equal(before[0], next(model.parameters()))
    assert not torch.equal(matrix, before[[parameter is matrix for parameter in model.parameters()].index(True)])
    state.require_finite()


@pytest.mark.parametrize(("multiplies", "expected"), [(True, "bf16"), (False, "no")])
def test_bf16_is_found_without_the_newer_question_for_it(monkeypatch, multiplies, expected):
    """PyTorch 2.9 has no ``torch.cpu.get_capabilities``."""
    monkeypatch.delattr("torch.cpu.get_capabilities", raising=False)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: multiplies)
    assert open_accelerator("cpu").mixed_precision == expected
