import numpy as np
import pytest

from dhvt.evaluation.calibration import (
    FOLDS,
    cross_fit_temperatures,
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


def test_with_every_image_right_there_is_no_temperature_to_fit(calibrated):
    logits, _ = calibrated
    assert fit_temperature(logits[:50], logits[:50].argmax(axis=1)) == 1.0


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
        losses = [negative_log_likelihood(logits / near, labels) for near in (best, best * 1.05, best / 1.05)]
        assert 0.05 <= best <= 20
        assert losses[0] == min(losses) or best > 19.9 or best < 0.051
