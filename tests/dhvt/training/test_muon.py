import pytest
import torch

from dhvt.training.config import Recipe
from dhvt.training.muon import Muon, orthogonalize
from dhvt.training.optim import build_optimizers


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 16, 48), (2, 48, 16), (1, 32, 32)])
def test_singular_values_come_near_one(shape, dtype):
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape, generator=torch.Generator().manual_seed(0)), dtype))
    assert values.min() > 0.5
    assert values.max() < 1.5


def test_it_learns_a_linear_map():
    torch.manual_seed(0)
    target = torch.randn(8, 6)
    weight = torch.nn.Parameter(torch.zeros(8, 6))
    optimizer = Muon([weight], lr=0.05, weight_decay=0.0)
    inputs = torch.randn(256, 6)
    for _ in range(200):
        loss = ((inputs @ weight.T - inputs @ target.T) ** 2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.05


def test_convolutions_are_flattened_and_keep_their_shape():
    weight = torch.nn.Parameter(torch.zeros(8, 4, 3, 3))
    weight.grad = torch.randn(8, 4, 3, 3)
    Muon([weight], lr=1.0, weight_decay=0.0).step()
    assert weight.shape == (8, 4, 3, 3)
    assert weight.detach().square().mean().sqrt() == pytest.approx(0.2, rel=0.5)


def test_what_a_model_exempts_from_decay_is_no_matrix():
    """As the table of position biases of timm's Swin."""
    model = torch.nn.Linear(4, 4)
    model.table = torch.nn.Parameter(torch.zeros(9, 2))
    model.no_weight_decay = lambda: {"table"}
    adamw, muon = build_optimizers(model, Recipe(optimizer="muon"))
    assert [parameter is model.weight for group in muon.param_groups for parameter in group["params"]] == [True]
    decays = {id(parameter): group["weight_decay"] for group in adamw.param_groups for parameter in group["params"]}
    assert decays == {id(model.table): 0.0, id(model.bias): 0.0}
