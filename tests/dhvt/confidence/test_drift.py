"""The test for drift: its bound on false alarms, what it finds, and that it goes on where it was."""

import io

import numpy as np
import pytest

from dhvt.confidence.drift import BLOCK, WINDOW, DriftTest
from dhvt.confidence.shares import changed_shares

SHARES = np.array([0.4, 0.3, 0.2, 0.1])


def draw(rng, count, shares=SHARES, sharpness=6.0):
    """Predicted classes and top scores."""
    return rng.choice(len(shares), count, p=shares), rng.beta(sharpness, 1, count)


def make_test(rng, reference=1000, **options):
    return DriftTest(*draw(rng, reference), len(SHARES), **options)


@pytest.mark.parametrize("reference", [20, 500])
def test_false_alarms_are_no_more_than_promised(reference):
    """At δ = 0.2, 40 streams 60 times as long as the smaller reference, which they show to be off by its sampling error."""
    alarms = 0
    for seed in range(40):
        rng = np.random.default_rng([reference, seed])
        test = make_test(rng, reference, alarm_at=5, seed=seed)
        test.update(*draw(rng, 1200))
        alarms += test.alarm is not None
    assert alarms <= 14  # 8 are expected at most; more than 14 have a probability of 0.8 %


@pytest.mark.parametrize(
    ("change", "of"),
    [({"shares": SHARES[::-1]}, "classes"), ({"sharpness": 1.5}, "scores")],
)
def test_a_change_is_found_and_when_it_began(change, of):
    rng = np.random.default_rng(1)
    test = make_test(rng)
    test.update(*draw(rng, 100 * BLOCK), time=1000)
    assert test.alarm is None
    assert test.log_evidence < 0
    for second in range(20):
        test.update(*draw(rng, BLOCK, **change), time=2000 + second)
    assert of in test.alarm.of
    assert 100 * BLOCK < test.alarm.images <= 115 * BLOCK
    assert 95 * BLOCK <= test.alarm.began_images <= 105 * BLOCK
    assert 2000 < test.alarm.time < 2015
    assert test.alarm.began_time <= test.alarm.time
    first = test.alarm
    test.update(*draw(rng, 100 * BLOCK), time=3000)
    assert test.alarm == first


def test_many_classes_with_few_images_each():
    rng = np.random.default_rng(2)
    shares = np.full(300, 1 / 300)
    test = DriftTest(*draw(rng, 600, shares), 300)
    test.update(*draw(rng, 50 * BLOCK, shares))
    assert test.alarm is None
    test.update(*draw(rng, 30 * BLOCK, shares, sharpness=1.5))
    assert test.alarm is not None


def test_answers_count_in_order_however_they_come():
    def run(sizes, seed=0):
        rng = np.random.default_rng(3)
        test = make_test(rng, seed=seed)
        classes, scores = draw(rng, 4 * BLOCK + 5)
        tested = [
            test.update(classes[start : start + size], scores[start : start + size]) for start, size in zip(*sizes, strict=True)
        ]
        return test.log_evidence, sum(tested), test.recent_counts.tolist()

    whole = run(([0], [4 * BLOCK + 5]))
    assert run(([0, 1, 60], [1, 59, 4 * BLOCK - 55])) == whole
    assert whole[1] == sum(whole[2]) == 4 * BLOCK
    assert run(([0], [4 * BLOCK + 5]), seed=1)[0] != whole[0]


def test_it_goes_on_where_it_was():
    rng = np.random.default_rng(4)
    reference = draw(rng, 1000)
    whole, first, second = (DriftTest(*reference, 4) for _ in range(3))
    before, after = draw(rng, 3 * BLOCK + 7), draw(rng, 40 * BLOCK, sharpness=1.5)
    for test in (whole, first):
        test.update(*before, time=1)
    file = io.BytesIO()
    np.savez(file, **first.state())
    file.seek(0)
    second.restore(dict(np.load(file)))
    first.update(*after)  # a state does not change with its test
    for test in (whole, second):
        test.update(*after, time=2)
    assert second.log_evidence == whole.log_evidence
    assert second.alarm == whole.alarm is not None
    assert second.recent_counts.tolist() == whole.recent_counts.tolist()
    with pytest.raises(ValueError, match="counts is missing or of another shape"):
        DriftTest(*reference, 5).restore(whole.state())
    with pytest.raises(ValueError, match="waiting is missing"):
        second.restore({name: value for name, value in whole.state().items() if name != "waiting"})


def test_the_window_has_the_last_answers():
    test = make_test(np.random.default_rng(5))
    test.update(np.zeros(3000, int), np.full(3000, 0.5))
    test.update(np.full(640, 3), np.full(640, 0.5))
    assert test.images == 3616
    assert test.recent_counts.tolist() == [WINDOW - 616, 0, 0, 616]


def test_scores_of_0_and_1_are_scores():
    test = make_test(np.random.default_rng(6))
    test.update(np.zeros(BLOCK, int), np.tile([0.0, 1.0], BLOCK // 2))
    assert np.isfinite(test.log_evidence)


def test_classes_whose_share_changed():
    reference = np.array([400, 300, 200, 100])
    assert changed_shares(np.array([41, 29, 19, 11]), reference) == []
    assert changed_shares(np.zeros(4, int), reference) == []
    grew, shrank = changed_shares(np.array([160, 300, 190, 350]), reference)
    assert (grew.label, grew.share, grew.reference_share) == (3, 0.35, 0.1)
    assert (shrank.label, shrank.share, shrank.reference_share) == (0, 0.16, 0.4)
    assert shrank.high < 0 < grew.low < 0.25 < grew.high


def test_the_interval_is_newcombes():
    """Against the definition: each Wilson bound p solves (share - p)² = z² p (1 - p) / n."""
    z = 2.241403  # of 95 % for two classes together

    def wilson(share, n):
        return sorted(np.roots([1 + z * z / n, -2 * share - z * z / n, share**2]).real)

    (low, high), (reference_low, reference_high) = wilson(0.8, 70), wilson(0.5, 80)
    change = changed_shares(np.array([56, 14]), np.array([40, 40]))[0]
    assert change.low == pytest.approx(0.3 - np.hypot(0.8 - low, reference_high - 0.5), abs=1e-6)
    assert change.high == pytest.approx(0.3 + np.hypot(high - 0.8, 0.5 - reference_low), abs=1e-6)
