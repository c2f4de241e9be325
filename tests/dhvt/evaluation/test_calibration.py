import numpy as np
import pytest

from dhvt.evaluation.calibration import (
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    softmax,
)


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
