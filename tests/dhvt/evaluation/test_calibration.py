import numpy as np
import pytest

from dhvt.evaluation.calibration import (
    FOLDS,
    calibration_error_interval,
    cross_fit_temperatures,
    describe_limit,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    softmax,
)
from dhvt.evaluation.metrics import Outputs, calibrate, evaluate


@pytest.fixture
def calibrated():
    """Logits whose scores are the truth: labels are drawn from them."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 4))
    labels = (softmax(logits).cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    return logits, labels


def test_true_scores_have_no_calibration_error(calibrated):
    logits, labels = calibrated
    assert expected_calibration_error(logits, labels) < 0.02
    assert expected_calibration_error(logits * 3, labels) > 0.1
    assert reliability(logits, labels).share.sum() == pytest.approx(1)


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_the_temperature_undoes_a_scaling(calibrated, factor):
    logits, labels = calibrated
    assert fit_temperature(logits * factor, labels) == pytest.approx(factor, rel=0.05)


@pytest.mark.parametrize(("images", "score"), [(20, 0.975), (140, 0.9964)])
def test_with_every_image_right_the_scores_are_what_so_many_images_can_show(images, score):
    """Half an image of so many may be wrong, whatever factor the logits have."""
    logits = np.tile([[3.0, 0.0]], (images, 1))
    for factor in (0.3, 1, 5):
        temperature = fit_temperature(factor * logits, np.zeros(images, np.int64))
        assert softmax(factor * logits / temperature)[0, 0] == pytest.approx(score, abs=1e-3)
    assert fit_temperature(logits, np.zeros(images, np.int64)) < 1


def test_the_interval_of_the_calibration_error_holds_the_true_one():
    """Of true scores it is 0, and of scores that are too low by 0.1 it is 0.1, on few images as on many."""
    rng = np.random.default_rng(3)
    for images in (30, 300, 3000):
        held = 0
        for _ in range(40):
            scores = rng.uniform(0.65, 0.9, images)
            labels = (rng.random(images) > scores).astype(np.int64)
            low, high = calibration_error_interval(np.log(np.stack([scores, 1 - scores], 1)), labels)
            shifted_low, shifted_high = calibration_error_interval(np.log(np.stack([scores - 0.1, 1.1 - scores], 1)), labels)
            held += (low == 0 <= high) + (shifted_low <= 0.1 <= shifted_high)
        assert held >= 74


def test_few_images_that_are_all_right_prove_little():
    logits = np.tile([[10.0, 0.0]], (20, 1))
    few = calibration_error_interval(logits, np.zeros(20, np.int64))
    many = calibration_error_interval(np.tile(logits, (100, 1)), np.zeros(2000, np.int64))
    assert few[0] == many[0] == 0
    assert (few[1] > 0.05, many[1] < 0.01) == (True, True)


def test_likelihood_of_certainty_and_of_a_guess():
    labels = np.array([0, 1])
    assert negative_log_likelihood(np.array([[1000.0, 0], [0, 1000.0]]), labels) == 0
    assert negative_log_likelihood(np.zeros((2, 4)), labels) == pytest.approx(np.log(4))


def outputs_of(logits, labels):
    return Outputs(logits=logits, labels=labels, indices=np.arange(len(labels)), skipped=0)


def test_the_reported_calibration_is_not_that_of_the_images_the_temperature_was_fitted_on():
    """Of a few images, the fit makes itself look better than it is on any others."""
    rng = np.random.default_rng(1)
    reported, fitted, true = [], [], []
    for _ in range(60):
        logits = rng.normal(0, 2, (2_020, 3))
        labels = (softmax(logits / 2).cumsum(axis=1) < rng.random((2_020, 1))).sum(axis=1)
        few, others = outputs_of(logits[:20], labels[:20]), outputs_of(logits[20:], labels[20:])
        evaluation, temperature = calibrate(few)
        assert temperature == fit_temperature(few.logits, few.labels)
        assert evaluation.top1 == evaluate(few).top1
        reported.append(evaluation.nll)
        fitted.append(evaluate(few, temperature).nll)
        true.append(evaluate(others, temperature).nll)
    assert np.mean(fitted) < np.mean(true) < np.mean(reported) + 0.01
    assert all(one <= other for one, other in zip(fitted, reported, strict=True))


def test_each_temperature_is_fitted_without_its_image(calibrated):
    logits, labels = calibrated[0][:100], calibrated[1][:100]
    temperatures = cross_fit_temperatures(logits, labels)
    assert len(np.unique(temperatures)) == FOLDS
    image = 7
    fold = temperatures == temperatures[image]
    assert temperatures[image] == pytest.approx(fit_temperature(logits[~fold], labels[~fold]), rel=1e-4)


def test_images_of_one_group_have_one_temperature(calibrated):
    """Fitted without any of them: what is alike is not on both sides."""
    logits, labels = calibrated[0][:100], calibrated[1][:100]
    groups = [f"p{number // 7}" for number in range(100)]
    temperatures = cross_fit_temperatures(logits, labels, groups=groups)
    assert len(np.unique(temperatures)) == FOLDS
    assert all(len(np.unique(temperatures[start : start + 7])) == 1 for start in range(0, 100, 7))
    others = temperatures != temperatures[0]
    assert temperatures[0] == pytest.approx(fit_temperature(logits[others], labels[others]), rel=1e-4)
    assert (cross_fit_temperatures(logits, labels, groups=["p"] * 100) == 1).all()
    shuffled = Outputs(logits=logits, labels=labels, indices=np.arange(100)[::-1] + 5, skipped=5)
    evaluation, _ = calibrate(shuffled, ["?"] * 5 + groups[::-1])
    assert evaluation == evaluate(shuffled, temperatures)


def test_a_temperature_at_its_limit_is_told():
    contradictory = fit_temperature(np.tile([[5.0, 0]], (4, 1)), np.array([0, 1, 1, 1]))
    assert "the temperature is 20, the limit of what is fitted" in describe_limit(contradictory, 4)
    assert "4 validation images are too few" in describe_limit(contradictory, 4)
    nearly = np.array([[0.05, 0]] * 30 + [[0, 1e-6]])
    assert "scores are near 0 and 1" in describe_limit(fit_temperature(nearly, np.zeros(31, dtype=np.int64)), 31)
    assert describe_limit(1.0, 4) is None


@pytest.mark.parametrize("images", [1, 2, 3])
def test_few_images_can_be_calibrated_too(calibrated, images):
    evaluation, temperature = calibrate(outputs_of(calibrated[0][:images], calibrated[1][:images]))
    assert evaluation.images == images
    assert 0.05 <= temperature <= 20


def test_the_temperature_is_where_the_log_loss_is_least():
    """Wild logits, whose best temperature lies at or beyond the bounds, included."""
    rng = np.random.default_rng(2)
    for scale in (1e-3, 0.1, 1, 30, 1e4):
        logits, labels = rng.normal(0, scale, (50, 4)), rng.integers(0, 4, 50)
        best = fit_temperature(logits, labels)
        wrong = np.where(np.eye(4)[labels] > 0, -np.inf, logits).argmax(axis=1)
        losses = [
            50 * negative_log_likelihood(logits / near, labels) + 0.5 * negative_log_likelihood(logits / near, wrong)
            for near in (best, best * 1.05, best / 1.05)
        ]
        assert 0.05 <= best <= 20
        assert losses[0] == min(losses) or best > 19.9 or best < 0.051
