"""The e-value of two counts in exact arithmetic, as a supermartingale; boundary tables."""

import math
from fractions import Fraction

import numpy as np
import pytest

from modicum.testtime.stopping import (
    PPR,
    BetaStop,
    ModeCertificate,
    StopTable,
    beta_confidence,
    log_e_pair,
)
from modicum.testtime.stopping.tables import LARGEST_SIZE, pair_boundary


def exact_e(a, b, two_sided=False):
    """Return E as a rational number: I_{1/2}(b+1, a+1) is a binomial tail."""
    n = a + b
    two = Fraction(2**n, (n + 1) * math.comb(n, a))
    if two_sided:
        return two
    tail = sum(math.comb(n + 1, k) for k in range(b + 1, n + 2))
    return 2 * two * Fraction(tail, 2 ** (n + 1))


GRID = [(a, b) for a in range(0, 40, 3) for b in range(0, 40, 3)] + [(150, 90), (90, 150), (300, 0)]


@pytest.mark.parametrize("two_sided", [False, True])
def test_log_e_is_exact(two_sided):
    a, b = np.array(GRID).T
    expected = [
        math.log(e.numerator) - math.log(e.denominator)
        for e in (exact_e(int(x), int(y), two_sided) for x, y in GRID)
    ]
    np.testing.assert_allclose(log_e_pair(a, b, two_sided), expected, rtol=1e-12, atol=1e-11)


def test_beta_confidence_is_exact():
    for a, b in [(0, 0), (1, 0), (4, 0), (11, 4), (3, 9), (60, 41)]:
        n = a + b + 1
        tail = Fraction(sum(math.comb(n, k) for k in range(b + 1, n + 1)), 2**n)
        assert float(beta_confidence(a, b)) == pytest.approx(float(tail), rel=1e-13)


def test_supermartingale_at_every_count():
    size = 120
    a, b = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    e = np.exp(log_e_pair(a, b))
    if_first, if_second, now = e[1:, :-1], e[:-1, 1:], e[:-1, :-1]
    # A martingale at 1/2, and no less than one below it.
    np.testing.assert_allclose((if_first + if_second) / 2, now, rtol=1e-11)
    for q in (0.0, 0.1, 0.3, 0.45, 0.49999):
        assert np.all(q * if_first + (1 - q) * if_second <= now * (1 + 1e-11))
    # Above 1/2 it is none, so that the check can fail.
    assert np.any(0.51 * if_first + 0.49 * if_second > now * (1 + 1e-3))
    assert e[0, 0] == 1


def test_two_sided_is_a_martingale_at_one_half_only():
    size = 60
    a, b = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    e = np.exp(log_e_pair(a, b, two_sided=True))
    np.testing.assert_allclose((e[1:, :-1] + e[:-1, 1:]) / 2, e[:-1, :-1], rtol=1e-11)
    assert np.any(0.3 * e[1:, :-1] + 0.7 * e[:-1, 1:] > e[:-1, :-1] * 1.001)


@pytest.mark.parametrize("base", [0, 7, 1000, 10**6, 10**7])
def test_monotone_in_both_counts(base):
    width = max(2, math.isqrt(base))
    others = base + np.arange(-3 * width, 3 * width + 1, max(1, width // 8))
    others = others[others >= 0]
    falling = log_e_pair(base, others)
    rising = log_e_pair(others, base)
    assert np.all(np.diff(falling) < 0) and np.all(np.diff(rising) > 0)
    ahead = others[others <= base]
    assert np.all(np.diff(log_e_pair(base, ahead, two_sided=True)) < 1e-7)


@pytest.mark.parametrize("b", [0, 5, 10**3, 10**7])
@pytest.mark.parametrize("a", [0, 5, 10**3, 10**7])
def test_large_counts_give_numbers(a, b):
    value = float(log_e_pair(a, b))
    assert not math.isnan(value) and value < math.inf
    if a <= b:
        assert value <= 1e-7
    if b - a > 5000:
        assert value == -math.inf
    if a - b > 1000:
        assert value > 100
    if a == b:
        # ln(2^n B(a+1, a+1)) by Stirling's series: the factor 2 and I = 1/2 cancel.
        n = 2 * a
        if a >= 1000:
            stirling = 0.5 * math.log(math.pi * n / 2) - math.log(n + 1) + 1 / (4 * n)
            assert value == pytest.approx(stirling, abs=1e-7)


def test_broadcasting_and_bad_counts():
    assert log_e_pair(np.arange(3)[:, None], np.arange(4)).shape == (3, 4)
    assert np.ndim(log_e_pair(3, 1)) == 0
    for bad in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match="finite and >= 0"):
            log_e_pair(bad, 1)
        with pytest.raises(ValueError, match="finite and >= 0"):
            beta_confidence(1, [1, bad])


def test_published_boundaries():
    assert PPR(0.05, 2).table(6).tolist() == [7, 10, 12, 14, 16, 18]
    assert PPR(0.05, 2, two_sided=True).table(6).tolist() == [8, 11, 14, 16, 18, 20]
    assert BetaStop(0.95).table(6).tolist() == [4, 6, 8, 9, 11, 12]


@pytest.mark.parametrize(
    ("threshold", "table"),
    [
        (Fraction(1) / Fraction("0.05"), PPR(0.05, 2).table(40)),
        (4 / Fraction("0.01"), PPR(0.01, 5).table(40)),
        (2 / Fraction("0.1"), ModeCertificate(0.1).boundary(40)),
        (12 / Fraction("0.05"), ModeCertificate(0.05).boundary(40, 3)),
        (1 / Fraction("0.05"), ModeCertificate(0.05, target="a").boundary(40)),
        (50 * 51 / Fraction("0.2"), ModeCertificate(0.2).boundary(40, 50)),
    ],
)
def test_boundaries_by_exact_search(threshold, table):
    for b, least in enumerate(table.tolist()):
        assert exact_e(least, b) >= threshold > exact_e(least - 1, b)


def test_two_sided_boundary_by_exact_search():
    for b, least in enumerate(PPR(0.02, 4, two_sided=True).table(40).tolist()):
        assert exact_e(least, b, True) >= 3 / Fraction("0.02") > exact_e(least - 1, b, True)
        assert least > b


def test_tables_do_not_depend_on_how_they_grew():
    once = PPR(0.037, 3).table(3000)
    pair_boundary.cache_clear()
    rule = PPR(0.037, 3)
    assert rule._boundary[0] == once[0] and rule._boundary[2999] == once[2999]
    np.testing.assert_array_equal(rule.table(100), once[:100])
    np.testing.assert_array_equal(rule.table(3000), once)
    assert np.all(np.diff(once) >= 1)
    once[0] = 99
    assert rule.table(1)[0] != 99  # what was handed out is the caller's own
    assert rule._boundary[LARGEST_SIZE + 5] > LARGEST_SIZE + 5


@pytest.mark.parametrize(
    "rule",
    [PPR(0.05, 2), PPR(0.2, 6), PPR(0.1, 3, two_sided=True), BetaStop(0.9), BetaStop(0.6, 3)],
    ids=repr,
)
def test_table_and_update_agree_everywhere(rule):
    table = rule.table(25)
    stops = StopTable(rule, 2)
    for runner_up in range(25):
        leader = int(table[runner_up])
        for votes in {max(runner_up, 1), leader - 1, leader, leader + 1, leader + 30}:
            if votes < runner_up or votes < 1:
                continue
            fresh = rule.fresh()
            # The runner-up's votes first, so that only the last vote can stop the rule.
            for _ in range(runner_up):
                fresh.update("second")
            for _ in range(votes):
                decision = fresh.update("first")
            assert decision.stop == (votes >= leader)
            assert bool(stops.stop([votes], [runner_up])[0]) == decision.stop
            if decision.stop:
                assert decision.answer == "first"


def test_confidence_is_what_the_evidence_supports():
    rule = PPR(0.05, 3)
    for _ in range(9):
        decision = rule.update("a")
    assert decision.stop
    assert decision.confidence == pytest.approx(1 - 2 / float(exact_e(9, 0)), rel=1e-12)
    beta = BetaStop(0.95)
    for _ in range(4):
        decision = beta.update("a")
    assert decision.confidence == 1 - 2**-5


def test_stop_table_of_many_prompts():
    table = StopTable(PPR(0.05, 2), 4)
    np.testing.assert_array_equal(
        table.stop([7, 6, 18, 0, 500], [0, 0, 5, 0, 100]), [True, False, True, False, True]
    )
    assert len(table.least_N) > 100
    assert table.stop(np.zeros(0, dtype=int), np.zeros(0, dtype=int)).shape == (0,)
    with pytest.raises(TypeError, match="integer counts"):
        table.stop([7.0], [0])
    with pytest.raises(ValueError, match="runner_up <= leader"):
        table.stop([3], [4])
    with pytest.raises(ValueError, match="runner_up <= leader"):
        table.stop([3], [-1])


def test_least_votes_of_the_beta_rule():
    assert BetaStop(0.95, min_samples=7).table(4).tolist() == [7, 6, 8, 9]
    assert BetaStop(0.6, min_samples=1).table(1).tolist() == [1]
    with pytest.raises(TypeError, match="up to min_samples=7"):
        BetaStop(0.95, min_samples=8).table(4)
