"""Weights of the classes in the loss."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional

from dhvt.evaluation.metrics import Outputs
from dhvt.model.checkpoint import load_checkpoint
from dhvt.training.class_weights import weigh_classes, weighted_cross_entropy
from dhvt.training.validation import Validation
from tests.dhvt.training.commands import SMALL, run

LABELS = np.repeat([0, 1], [90, 10])


@pytest.mark.parametrize(("kind", "ratio"), [("balanced", 9), ("sqrt", 3)])
def test_rare_classes_weigh_more_and_the_mean_image_is_1(kind, ratio):
    weights = weigh_classes(kind, LABELS, 3)
    assert weights[1] / weights[0] == pytest.approx(ratio)
    assert weights[LABELS].mean() == pytest.approx(1)
    assert weights[2] >= weights[1]  # a class without images
    assert weigh_classes("none", LABELS, 3) is None


def test_the_loss_is_weighted_by_image_also_where_images_are_mixed():
    torch.manual_seed(0)
    logits, labels, weights = torch.randn(6, 3), torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0.5, 1.0, 2.0])
    each = functional.cross_entropy(logits, labels, label_smoothing=0.1, reduction="none")
    got = weighted_cross_entropy(logits, labels, weights, 0.1)
    assert got == pytest.approx(float((each * torch.tensor([0.5, 0.5, 0.5, 1, 1, 2])).mean()))
    one_hot = functional.one_hot(labels, 3).float()
    assert weighted_cross_entropy(logits, one_hot, weights, 0.1) == pytest.approx(float(got))
    mixed = 0.7 * one_hot + 0.3 * one_hot.flip(0)
    smoothed = -((0.9 * mixed + 0.1 / 3) * logits.log_softmax(1)).sum(1)
    assert weighted_cross_entropy(logits, mixed, None, 0.1) == pytest.approx(float(smoothed.mean()))
    shares = 0.7 * weights[labels] + 0.3 * weights[labels.flip(0)]
    assert weighted_cross_entropy(logits, mixed, weights, 0.1) == pytest.approx(float((smoothed * shares).mean()))
    halves = [weighted_cross_entropy(logits[rows], labels[rows], weights, 0.1) for rows in (slice(0, 3), slice(3, 6))]
    assert sum(halves) / 2 == pytest.approx(float(got))


def test_the_epoch_is_chosen_by_the_loss_that_is_trained():
    """Of a rare class that is always mistaken, the loss with even classes says more."""
    logits, labels = np.array([[4.0, 0.0]] * 100), LABELS
    outputs = Outputs(logits=logits, labels=labels, indices=np.arange(100), skipped=0)
    values = {"outputs": outputs, "evaluation": None, "temperature": 1.0, "broken_images": 0}
    plain = Validation(**values).loss
    even = Validation(**values, class_weights=weigh_classes("balanced", labels, 2).numpy()).loss
    each = np.log1p(np.exp(-4.0)), 4 + np.log1p(np.exp(-4.0))
    assert plain == pytest.approx(0.9 * each[0] + 0.1 * each[1])
    assert even == pytest.approx(np.mean(each))


def test_uneven_classes_train_with_weights_and_the_log_says_how_each_fares(image_folder, tmp_path):
    data = shutil.copytree(image_folder, tmp_path / "data")
    for path in sorted((data / "circle").iterdir())[4:]:
        path.unlink()
    weights = {}
    for kind in ("none", "balanced"):
        result = run(data, tmp_path / kind, *SMALL, "--epochs", "1", "--class-weights", kind)
        assert result.exit_code == 0, result.output
        saved = load_checkpoint(tmp_path / kind / "ckpt.pt")
        weights[kind] = saved.weights["head.bias"]
        assert f"balanced accuracy {saved.metrics['val_balanced_accuracy']:.2f} %, macro-F1 " in result.output
    row = json.loads((tmp_path / "none" / "metrics.jsonl").read_text())
    assert 0 <= row["val_macro_f1"] <= 100
    assert not torch.equal(weights["none"], weights["balanced"])
    refused = run(data, tmp_path / "none", *SMALL, "--epochs", "1", "--class-weights", "sqrt", "--resume")
    assert "class_weights 'none', now 'sqrt'" in refused.output
