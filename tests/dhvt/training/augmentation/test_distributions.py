"""What is drawn, 10,000 times, against what timm and torchvision draw."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment, mixup, random_erasing
from torch.nn import functional
from torchvision.transforms import v2

from dhvt.errors import ConfigError
from dhvt.training.augmentation.draws import Draws, pixel_noise
from dhvt.training.augmentation.erasing import draw_rectangles, erase
from dhvt.training.augmentation.geometry import shift_and_flip
from dhvt.training.augmentation.mixing import draw_mixture, mix
from dhvt.training.augmentation.rand_augment import BatchRandAugment
from dhvt.training.config import Recipe
from dhvt.training.dataset import draw_crop

COUNT = 10_000
FURTHEST = 0.03
"""Largest distance of two distribution functions; by chance alone, 0.023 in one of a hundred comparisons of 10,000 each."""


def keys(count=COUNT, epoch=0):
    return np.stack((np.full(count, epoch), np.arange(count), np.zeros(count, dtype=int)), axis=1)


def distance(first, second):
    """The Kolmogorov–Smirnov distance."""
    first, second = np.sort(np.asarray(first, dtype=float)), np.sort(np.asarray(second, dtype=float))
    points = np.concatenate((first, second))
    below = [np.searchsorted(values, points, "right") / len(values) for values in (first, second)]
    return np.abs(below[0] - below[1]).max()


def policy_operations(policy, monkeypatch):
    """timm's operations of a policy, each of which returns its argument instead of an image."""
    for name in auto_augment.NAME_TO_OP:
        monkeypatch.setitem(auto_augment.NAME_TO_OP, name, lambda image, *arguments, **_: (arguments or (None,))[0])
    return auto_augment.rand_augment_transform(policy, {})


@pytest.mark.parametrize(
    "policy", ["rand-m9-mstd0.5-inc1", "rand-m5-n3-p0.8", "rand-m7-mstd1-mmax8-inc1", "rand-m9-mstd101", "rand-m6-mstd2-t3aw"]
)
def test_arguments_are_drawn_as_by_timm(policy, monkeypatch):
    """Of every operation, with the policy's strength."""
    theirs, ours, draws = policy_operations(policy, monkeypatch), BatchRandAugment(policy, (0, 0, 0)), Draws(0, keys())
    random.seed(0)
    for operation in theirs.ops:
        spared = object()
        drawn = [operation(spared) for _ in range(COUNT)]
        expected = [argument for argument in drawn if argument is not spared]
        names, arguments = ours.parametrize(np.full(COUNT, operation.name), 0, draws)
        is_applied = names != ""
        assert is_applied.mean() == pytest.approx(len(expected) / COUNT, abs=FURTHEST)
        if expected[0] is not None:
            if operation.name == "Desaturate":  # timm's argument is what is taken away
                expected = np.clip(1 - np.array(expected), 0, 1)
            assert distance(arguments[is_applied], expected) < FURTHEST, operation.name


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "rand-m9-n3-tweights"])
def test_operations_are_chosen_as_by_timm(policy, monkeypatch):
    theirs, ours = policy_operations(policy, monkeypatch), BatchRandAugment(policy, (0, 0, 0))
    np.random.seed(0)
    chosen = ours.choose(Draws(0, keys(3000)))
    drawn = [
        np.random.choice(theirs.ops, theirs.num_layers, replace=theirs.choice_weights is None, p=theirs.choice_weights)
        for _ in range(3000)
    ]
    expected = np.array([[operation.name for operation in operations] for operations in drawn])
    for layer in range(theirs.num_layers):
        for operation in theirs.ops:
            name = operation.name
            assert (chosen[:, layer] == name).mean() == pytest.approx((expected[:, layer] == name).mean(), abs=0.03)


def test_a_policy_that_timm_does_not_know_is_refused():
    with pytest.raises(ConfigError, match="rand-z9"):
        BatchRandAugment("rand-z9", (0, 0, 0))


def test_crops_are_drawn_as_by_torchvision():
    torch.manual_seed(0)
    crop = v2.RandomResizedCrop(32, scale=(0.08, 1), ratio=(3 / 4, 4 / 3))
    image = Image.new("RGB", (60, 40))
    expected = [crop.make_params([image]) for _ in range(2000)]
    drawn = [draw_crop(Draws(0, keys(1, epoch)), 60, 40, 0.08) for epoch in range(2000)]
    left, top, right, bottom = np.array(drawn).T
    for name, values in (("left", left), ("top", top), ("width", right - left), ("height", bottom - top)):
        assert distance(values, [params[name] for params in expected]) < 0.06, name


def test_erased_rectangles_are_drawn_as_by_timm(monkeypatch):
    boxes = []

    class Recorder:
        def __setitem__(self, where, value):
            boxes.append((where[1].start, where[2].start, where[1].stop - where[1].start, where[2].stop - where[2].start))

    monkeypatch.setattr(random_erasing, "_get_pixels", lambda *_, **__: None)
    random.seed(0)
    eraser = random_erasing.RandomErasing(1.0, mode="pixel", device="cpu")
    for _ in range(COUNT):
        eraser._erase(Recorder(), 3, 32, 24, torch.float32)
    drawn = draw_rectangles(Draws(0, keys()), 32, 24)
    for ours, theirs in zip(drawn.T, zip(*boxes, strict=True), strict=True):
        assert distance(ours, theirs) < FURTHEST


def test_a_quarter_of_the_images_is_erased_by_noise():
    images = torch.full((1500, 3, 8, 8), 7.0)
    erase(images, Draws(0, keys(1500)), 0.25)
    is_erased = (images != 7).all(1)
    assert is_erased.any(2).any(1).float().mean() == pytest.approx(0.25, abs=0.04)
    noise = images.movedim(1, 0)[:, is_erased]
    assert noise.mean() == pytest.approx(0, abs=0.03)
    assert noise.std() == pytest.approx(1, abs=0.03)


def test_noise_is_normal_and_of_its_image_alone():
    states = torch.tensor([1, -(2**60), 5])
    noise = pixel_noise(states, (3, 100, 100))
    assert torch.equal(noise[1:], pixel_noise(states[1:], (3, 100, 100)))
    assert distance(noise[0].flatten().numpy(), np.random.default_rng(0).normal(size=30_000)) < 0.02
    assert np.abs(np.corrcoef(noise.flatten(1).numpy())[np.triu_indices(3, 1)]).max() < 0.02


def test_shifts_and_flips_are_drawn_evenly():
    image = torch.arange(64, dtype=torch.uint8).view(1, 8, 8, 1)
    drawn = shift_and_flip(image.expand(COUNT, -1, -1, -1), Draws(0, keys()), pad=(1, 1), padding_mode="constant", flip=0.25)
    counts = torch.unique(drawn, dim=0, return_counts=True)[1]
    assert len(counts) == 18
    assert counts.min() > COUNT * 0.25 / 9 * 0.8
    assert counts.max() < COUNT * 0.75 / 9 * 1.2
    random_crop = v2.RandomCrop(8, padding=1, padding_mode="reflect")
    theirs = {tuple(random_crop(image.permute(0, 3, 1, 2)).flatten().tolist()) for _ in range(200)}
    reflected = shift_and_flip(image.expand(200, -1, -1, -1), Draws(0, keys(200)), pad=(1, 1), padding_mode="reflect", flip=0.0)
    assert {tuple(pixels.flatten().tolist()) for pixels in reflected} == theirs


@pytest.mark.parametrize("changes", [{}, {"mixup": 0.0}, {"cutmix": 0.0}, {"mix_prob": 0.4}])
def test_mixtures_are_drawn_as_by_timm(changes):
    recipe = Recipe.preset("cifar100", **changes)
    theirs = mixup.Mixup(recipe.mixup, recipe.cutmix, prob=recipe.mix_prob, switch_prob=0.5, num_classes=2)
    np.random.seed(0)
    expected = [theirs._params_per_batch() for _ in range(4000)]
    drawn = [draw_mixture(recipe, step) for step in range(4000)]
    for is_cut in (True, False):
        ours = [mixture.share for mixture in drawn if (mixture.center is not None) == is_cut]
        other = [share for share, cuts in expected if bool(cuts) == is_cut]
        assert len(ours) == pytest.approx(len(other), abs=160)
        if other:
            assert distance(ours, other) < 0.08


def test_what_is_mixed_is_what_timm_mixes(monkeypatch):
    """With the same parameters, but for the partner: timm's stands at the mirrored place."""
    images, labels, recipe = torch.randn(8, 3, 10, 12), torch.tensor([0, 1, 2, 3] * 2), Recipe.preset("cifar100")
    mixtures = [draw_mixture(recipe, step) for step in range(20)]
    for mixture in mixtures:
        theirs = mixup.Mixup(0.8, 1.0, label_smoothing=0.0, num_classes=4)
        monkeypatch.setattr(theirs, "_params_per_batch", lambda m=mixture: (m.share, m.center is not None))
        center = iter(mixture.center or ())
        monkeypatch.setattr(np.random, "randint", lambda low, high, size, at=center: np.int64(int(next(at) * high)))
        order = torch.tensor([0, 1, 2, 3, 7, 6, 5, 4])  # the partners that a roll by half a batch gives
        expected_images, expected_labels = theirs(images[order].clone(), labels[order])
        got_images, got_labels = mix(images, functional.one_hot(labels, 4).float(), mixture)
        torch.testing.assert_close(got_images[order], expected_images)
        torch.testing.assert_close(got_labels[order], expected_labels, rtol=1e-4, atol=1e-6)
    assert {mixture.center is None for mixture in mixtures} == {True, False}


def test_draws_depend_on_seed_epoch_image_and_repeat_alone():
    few = np.array([[3, 5, 1], [3, 8, 0]])
    many = np.concatenate((few[::-1], keys(10)))
    assert np.array_equal(Draws(7, few).uniform("a", 3), Draws(7, many).uniform("a", 3)[1::-1])
    first = Draws(7, few).uniform("a", 3)
    others = [Draws(7, few + step) for step in np.eye(3, dtype=np.int64)]
    for other in (Draws(8, few), *others):
        assert not np.isclose(first, other.uniform("a", 3)).any()
    assert not np.isclose(first, Draws(7, few).uniform("b", 3)).any()
    numbers = Draws(0, keys()).uniform("c", 2)
    assert np.abs(np.corrcoef(np.column_stack((numbers, np.roll(numbers, 1, 0))).T)[np.triu_indices(4, 1)]).max() < 0.03
