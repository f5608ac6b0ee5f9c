import math

import numpy as np
import pytest

from modicum.core.device import numpy_generator
from modicum.testtime.estimate import estimate_gap, share_interval


def test_point_estimates():
    estimate = estimate_gap([3, 12, 0, 5])
    assert (estimate.leader, estimate.runner_up) == (1, 3)
    assert estimate.gap == pytest.approx(7 / 20)
    assert estimate.q == pytest.approx(12 / 17)
    assert estimate_gap([4, 4]).leader == 0
    alone = estimate_gap([8])
    assert (alone.runner_up, alone.q, alone.gap) == (-1, 1.0, 1.0)
    assert alone.interval[1] == 1.0 and alone.interval[0] > 0.5


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (7, 0), (0, 7), (12, 5), (900, 850), (1, 1)])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_ends_are_where_the_mixture_reaches_the_level(wins, losses, confidence):
    from scipy.special import betaln, xlog1py, xlogy

    low, high = share_interval(wins, losses, 1 - confidence)
    assert 0 <= low <= wins / max(1, wins + losses) <= high <= 1 or wins + losses == 0
    for end in (low, high):
        if 0 < end < 1:
            log_e = betaln(wins + 1, losses + 1) - xlogy(wins, end) - xlog1py(losses, -end)
            assert log_e == pytest.approx(-math.log1p(-confidence), abs=1e-6)


def test_anytime_interval_covers_at_every_time_at_once():
    # Exact: the probability that a walk of 300 votes ever leaves, by dynamic programming.
    horizon, confidence = 300, 0.9
    inside = {}
    for q in (0.5, 0.7, 0.95):
        alive = {0: 1.0}
        left = 0.0
        for n in range(1, horizon + 1):
            following = {}
            for wins, mass in alive.items():
                for step, chance in ((1, q), (0, 1 - q)):
                    following[wins + step] = following.get(wins + step, 0.0) + mass * chance
            alive = {}
            for wins, mass in following.items():
                if (wins, n) not in inside:
                    inside[wins, n] = share_interval(wins, n - wins, 1 - confidence)
                low, high = inside[wins, n]
                if low <= q <= high:
                    alive[wins] = mass
                else:
                    left += mass
        assert left <= 1 - confidence
        assert left > 0.005


def test_fixed_interval_is_clopper_pearson():
    from scipy.stats import binomtest

    interval = estimate_gap([30, 12, 2], 0.9, "fixed").interval
    expected = binomtest(30, 42).proportion_ci(0.9, "exact")
    assert interval == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_more_answers_widen_the_interval():
    narrow = estimate_gap([30, 12, 2]).interval
    wide = estimate_gap([30, 12, 2], num_answers=10).interval
    assert wide[0] < narrow[0] and wide[1] > narrow[1]


def test_anytime_is_wider_than_fixed():
    for counts in ([30, 12], [5, 1], [400, 350]):
        anytime = estimate_gap(counts).interval
        fixed = estimate_gap(counts, method="fixed").interval
        assert anytime[0] < fixed[0] and fixed[1] < anytime[1]


def test_selection_of_the_leader_is_paid_for():
    # Three equal answers: the interval of the leading pair must hold one half in 95 % of the runs,
    # leader and runner-up picked afterwards. 4 000 runs: below 93 % with probability 1e-8.
    rng = numpy_generator(5)
    covered = 0
    for _ in range(4000):
        counts = rng.multinomial(60, [1 / 3] * 3)
        low, high = estimate_gap(counts, num_answers=3).interval
        covered += low <= 0.5 <= high
    assert covered / 4000 >= 0.93


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "counts must be a list"),
        (([0, 0],), "not all zero"),
        (([3, -1],), "non-negative"),
        (([0.5, 0.5],), "counts must be integers"),
        (([3, 1], 1.0), "confidence must be in"),
        (([3, 1], 0.9, "other"), "method must be"),
        (([3, 1], 0.9, "fixed", 1), "num_answers must be at least 2"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        estimate_gap(*arguments)


def test_counts_may_be_an_array():
    assert estimate_gap(np.array([2, 9])).leader == 1


@pytest.mark.parametrize("error", [0.05, 1e-3, 1e-12, 1e-19, 1e-300])
@pytest.mark.parametrize(("wins", "losses"), [(10**7, 1), (10**7, 10**7), (5, 3), (1, 10**6)])
def test_interval_of_large_counts_and_tiny_errors_was_refused_by_the_root_finder(
    wins, losses, error
):
    from scipy.special import betaln, xlog1py, xlogy

    low, high = share_interval(wins, losses, error)
    mirrored = share_interval(losses, wins, error)
    assert low < wins / (wins + losses) < high
    assert (low, high) == pytest.approx((1 - mirrored[1], 1 - mirrored[0]), rel=1e-9, abs=1e-15)
    log_e = betaln(wins + 1, losses + 1) - xlogy(wins, low) - xlog1py(losses, -low)
    assert log_e == pytest.approx(-math.log(error), rel=1e-6, abs=1e-5)


def test_many_pairs_leave_no_confidence_of_one():
    # 1 - 0.05 / pairs is 1 in floats from 2e14 pairs on.
    low, high = estimate_gap([50, 3], num_answers=10**9).interval
    assert 0 < low < 50 / 53 < high < 1
    with pytest.raises(ValueError, match=r"error 1e-19 for each of 499999999500000000 pairs"):
        estimate_gap([50, 3], 0.95, "fixed", num_answers=10**9)
