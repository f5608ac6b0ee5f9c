"""Sensitivity, false accepts, ROC and d' of a verifier from labelled scores."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, mannwhitneyu, norm

from modicum.testtime.calibration import calibrate_verifier
from modicum.testtime.planner import plan
from modicum.testtime.verifier_models import best_of_n_success


def test_accept_and_reject():
    scores = [1] * 45 + [0] * 5 + [1] * 4 + [0] * 96
    correct = [True] * 50 + [False] * 100
    found = calibrate_verifier(scores, correct)
    assert (found.s, found.f, found.threshold) == (0.9, 0.04, 1.0)
    assert (found.num_correct, found.num_wrong) == (50, 100)
    assert found.base_rate == pytest.approx(1 / 3)
    assert found.thresholds.tolist() == [math.inf, 1, 0]
    assert found.true_accepts.tolist() == [0, 0.9, 1]
    assert found.false_accepts.tolist() == [0, 0.04, 1]
    # For one threshold the area under the curve is (s + 1 - f) / 2.
    assert found.auc == pytest.approx(0.93)
    assert found.criterion == "youden"


@pytest.mark.parametrize("confidence", [0.9, 0.99])
def test_intervals_are_those_of_the_binomial_tails(confidence):
    found = calibrate_verifier([1] * 45 + [0] * 5 + [1] * 4 + [0] * 96, [1] * 50 + [0] * 100,
                               confidence=confidence)  # fmt: skip
    tail = (1 - confidence) / 2
    low, high = found.s_interval
    assert binom.sf(44, 50, low) == pytest.approx(tail)
    assert binom.cdf(45, 50, high) == pytest.approx(tail)
    low, high = found.f_interval
    assert binom.sf(3, 100, low) == pytest.approx(tail)
    assert binom.cdf(4, 100, high) == pytest.approx(tail)
    cautious = found.model(cautious=True)
    assert (cautious.s, cautious.f) == (found.s_interval[0], found.f_interval[1])
    assert (found.model().s, found.model().f) == (found.s, found.f)


LABELLED = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30).filter(
    lambda rows: 0 < sum(label for _, label in rows) < len(rows)
)


def rates(scores, correct, threshold):
    accepted = np.array(scores) >= threshold
    correct = np.array(correct)
    return accepted[correct].mean(), accepted[~correct].mean()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(rows=LABELLED, limit=st.floats(0, 1))
def test_curve_area_and_best_threshold_by_definition(rows, limit):
    scores, correct = zip(*rows, strict=True)
    found = calibrate_verifier(scores, correct)
    candidates = [math.inf, *sorted(set(scores), reverse=True)]
    curve = [rates(scores, correct, threshold) for threshold in candidates]
    assert found.thresholds.tolist() == candidates
    assert np.allclose(np.stack([found.true_accepts, found.false_accepts], axis=1), curve)
    right = [s for s, label in rows if label]
    wrong = [s for s, label in rows if not label]
    wins = np.mean([(a > b) + (a == b) / 2 for a in right for b in wrong])
    assert found.auc == pytest.approx(wins)
    statistic = mannwhitneyu(right, wrong).statistic
    assert found.auc == pytest.approx(statistic / (len(right) * len(wrong)))
    # No threshold is better, and no higher one as good.
    gains = np.round([s - f for s, f in curve], 9)
    assert found.best_threshold == candidates[int(np.argmax(gains))]
    assert (found.s, found.f) == pytest.approx(rates(scores, correct, found.threshold))
    verdicts = [np.mean((np.array(scores) >= t) == np.array(correct)) for t in candidates]
    accurate = calibrate_verifier(scores, correct, criterion="accuracy")
    assert accurate.best_threshold == candidates[int(np.argmax(np.round(verdicts, 9)))]
    strict = calibrate_verifier(scores, correct, max_false_accept=limit)
    assert strict.f <= limit and strict.criterion == f"f <= {limit:g}"
    assert strict.s == max(s for s, f in curve if f <= limit)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(rows=LABELLED)
def test_monotone_transforms_change_nothing_but_the_thresholds(rows):
    scores, correct = zip(*rows, strict=True)
    found = calibrate_verifier(scores, correct)
    other = calibrate_verifier(np.exp(np.array(scores) / 2.0), correct)
    assert (other.s, other.f, other.auc, other.d_prime) == (
        found.s, found.f, found.auc, found.d_prime,
    )  # fmt: skip
    flipped = calibrate_verifier(-np.array(scores), correct)
    assert flipped.auc == pytest.approx(1 - found.auc)


def test_a_given_threshold():
    scores, correct = [0.9, 0.8, 0.3, 0.7, 0.2, 0.1], [1, 1, 1, 0, 0, 0]
    found = calibrate_verifier(scores, correct, threshold=0.25)
    assert (found.s, found.f, found.threshold) == (1.0, 1 / 3, 0.25)
    assert found.best_threshold == 0.8
    nothing = calibrate_verifier(scores, correct, threshold=math.inf)
    assert (nothing.s, nothing.f) == (0.0, 0.0)
    assert nothing.s_interval == pytest.approx((0, 1 - 0.025 ** (1 / 3)))


def test_d_prime():
    rng = np.random.default_rng(3)
    size, distance = 200_000, 1.3
    scores = np.concatenate([rng.normal(distance, 1, size), rng.normal(0, 1, size)])
    correct = np.arange(2 * size) < size
    found = calibrate_verifier(np.exp(scores), correct)
    # The area has standard error below sqrt(auc (1 - auc) / size) = 8.6e-4 (Birnbaum and Klose);
    # six of them are 0.026 in d'.
    assert found.auc == pytest.approx(norm.cdf(distance / math.sqrt(2)), abs=6 * 8.6e-4)
    assert found.d_prime == pytest.approx(distance, abs=0.026)
    assert found.gaussian().d_prime == found.d_prime
    # The most even rates of two normal laws are where they cross, halfway.
    assert math.log(found.best_threshold) == pytest.approx(distance / 2, abs=0.1)
    separate = calibrate_verifier([2, 3, 0, 1], [1, 1, 0, 0])
    assert separate.d_prime == math.inf and (separate.s, separate.f) == (1.0, 0.0)
    assert calibrate_verifier([2, 3, 0, 1], [0, 0, 1, 1]).d_prime == -math.inf
    with pytest.raises(ValueError, match="finite"):
        separate.gaussian()


def test_useless_scores_accept_nothing():
    found = calibrate_verifier([1, 1, 1, 1], [1, 0, 1, 0])
    assert found.auc == 0.5 and found.d_prime == 0
    assert found.best_threshold == math.inf and (found.s, found.f) == (0.0, 0.0)


def test_the_planner_takes_it():
    scores = [1] * 90 + [0] * 10 + [1] * 2 + [0] * 98
    verifier = calibrate_verifier(scores, [1] * 100 + [0] * 100).model()
    planned = plan("best_of_n", p_correct=0.4, verifier=verifier, delta=0.05)
    assert planned.feasible
    assert best_of_n_success(0.4, planned.n, verifier) >= 0.95
    assert best_of_n_success(0.4, planned.n - 1, verifier) < 0.95


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (([1, 2], [1]), {}, "one length"),
        (([[1, 2]], [[1, 0]]), {}, "one length"),
        (([1, math.nan], [1, 0]), {}, r"scores\[1\] is nan"),
        (([math.inf, 1], [1, 0]), {}, r"scores\[0\] is inf"),
        (([1, 2], [1, 2]), {}, "0 and 1"),
        (([1, 2], [1, 1]), {}, "of 2 2 are correct"),
        (([1, 2], [0, 0]), {}, "of 2 0 are correct"),
        (([], []), {}, "of 0 0 are correct"),
        (([1, 2], [1, 0]), {"confidence": 1.0}, "confidence"),
        (([1, 2], [1, 0]), {"threshold": math.nan}, "threshold"),
        (([1, 2], [1, 0]), {"criterion": "f1"}, "criterion"),
        (([1, 2], [1, 0]), {"max_false_accept": 1.5}, "max_false_accept"),
    ],
)
def test_bad_inputs(arguments, options, words):
    with pytest.raises(ValueError, match=words):
        calibrate_verifier(*arguments, **options)
