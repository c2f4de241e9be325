"""The calibration error of new images beside the reference's, and what a number of images allows."""

import numpy as np

from dhvt.confidence.scores import bin_scores, measure_calibration


def draw(rng, images, overrated=0.0):
    """Scores that are right less often than they say by as much as given."""
    scores = rng.uniform(0.5, 1, images)
    return bin_scores(scores, rng.random(images) < scores - overrated)


def test_a_promise_that_holds_and_one_that_is_broken():
    rng = np.random.default_rng(0)
    reference = draw(rng, 500)
    kept = measure_calibration(reference, 500, draw(rng, 800), 800)
    assert kept.fault is None
    assert kept.low <= kept.measured <= kept.high
    assert kept.describe().startswith("calibration error ")
    broken = measure_calibration(reference, 500, draw(rng, 800, overrated=0.3), 800)
    assert broken.fault == f"the calibration error is {broken.measured:.1%} (at most {broken.most:.1%})"
    assert broken.low > 0.2


def test_scores_that_were_wrong_on_the_reference_break_no_promise():
    rng = np.random.default_rng(1)
    found = measure_calibration(draw(rng, 500, overrated=0.3), 500, draw(rng, 800, overrated=0.3), 800)
    assert found.fault is None
    assert found.reference > 0.2


def test_few_images_tell_little():
    rng = np.random.default_rng(2)
    few, many = (measure_calibration(draw(rng, n), n, draw(rng, n), n) for n in (50, 5_000))
    assert many.most < 0.1 < few.most


def test_a_kept_promise_is_seldom_called_broken():
    rng = np.random.default_rng(3)
    for overrated in (0.0, 0.1):
        found = [measure_calibration(draw(rng, 200, overrated), 200, draw(rng, 200, overrated), 200) for _ in range(60)]
        assert not any(entry.fault for entry in found)
