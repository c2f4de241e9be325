import pytest
import torch

from dhvt.training.muon import Muon, orthogonalize


@pytest.mark.parametrize("shape", [(3, 16, 48), (2, 48, 16), (1, 32, 32)])
def test_singular_values_come_near_one(shape):
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
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
