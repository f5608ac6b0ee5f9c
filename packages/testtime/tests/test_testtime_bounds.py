"""Bounds against exact probabilities, enumeration, simulated controllers and published figures."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.core.device import numpy_generator
from modicum.core.stats import log_log_slope
from modicum.testtime.bounds import (
    CONTROLLERS,
    best_of_n_n,
    chernoff_error,
    chernoff_n,
    cumulative_regret_bound,
    hoeffding_error,
    hoeffding_n,
    mixture_success,
    necessary_n,
    regret_bound,
    round_robin_success,
    rounds_needed,
    self_correction_gap,
    separation_constant,
)
from modicum.testtime.plurality import plurality_curve, plurality_success

GAPS = (0.4, 0.2, 0.1, 0.05, 0.025, 0.0125)
SUCCESSES = (0.75, 0.9, 0.95, 0.99)


def random_law(rng):
    """Weights of up to six answers, nulls and lone answers, with a clear mode."""
    while True:
        mass = rng.dirichlet(np.ones(rng.integers(2, 7)))
        mass = np.sort(mass)[::-1]
        null, tail = (rng.dirichlet(np.ones(3))[:2] * rng.integers(0, 2, 2)).tolist()
        p_K = mass * (1 - null - tail)
        if p_K[0] - p_K[1] > 0.06:
            return p_K, null, tail


def test_hoeffding_and_chernoff_numbers_suffice():
    rng = numpy_generator(2, "laws")
    for index in range(150):
        p_K, null, tail = random_law(rng)
        delta = float(rng.choice([0.3, 0.1, 0.01, 1e-5]))
        n = chernoff_n(p_K, delta, null=null, tail=tail)
        law = {"null": null, "tail": tail, "tie": "strict"}
        assert plurality_success(p_K, n, **law) >= 1 - delta, (index, p_K, null, tail, delta)
        if tail == 0:
            n = hoeffding_n(p_K[0] - p_K[1], len(p_K), delta)
            assert plurality_success(p_K, n, **law) >= 1 - delta
        for n in (1, 2, 5, 30):
            exact = 1 - plurality_success(p_K, n, **law)
            chernoff = chernoff_error(p_K, n, null=null, tail=tail)
            hoeffding = hoeffding_error(p_K, n, null=null, tail=tail)
            assert exact - 1e-12 <= chernoff <= hoeffding + 1e-12 <= 1 + 1e-12


def test_chernoff_n_is_the_least():
    for p, null, tail in [([0.5, 0.3, 0.2], 0, 0), ([0.3, 0.1], 0.2, 0.4), ([0.2], 0.8, 0)]:
        for delta in (0.4, 0.05, 1e-8):
            n = chernoff_n(p, delta, null=null, tail=tail)
            assert chernoff_error(p, n, null=null, tail=tail) <= delta
            assert n == 1 or chernoff_error(p, n - 1, null=null, tail=tail) > delta


def test_chernoff_has_the_exact_exponent_and_hoeffding_does_not():
    p = [0.6, 0.4]
    rate = math.log(1 - (math.sqrt(0.6) - math.sqrt(0.4)) ** 2)
    exact = [math.log(1 - plurality_success(p, n, tie="strict")) for n in (400, 800)]
    # Up to a factor of order 1 / sqrt(n).
    assert (exact[1] - exact[0]) / 400 == pytest.approx(rate, abs=0.5 * math.log(2) / 400 * 1.05)
    assert chernoff_error(p, 300) == pytest.approx(math.exp(300 * rate))
    assert hoeffding_error(p, 300) == pytest.approx(math.exp(-300 * 0.04 / 2))
    assert hoeffding_error([0.6, 0.2, 0.2], 50) == pytest.approx(2 * math.exp(-50 * 0.16 / 2))


def test_hoeffding_values():
    assert hoeffding_n(0.1, 10, 0.05) == math.ceil(2 * math.log(180) / 0.01) == 1039
    assert hoeffding_n(1.0, 2, 0.5) == 2
    assert hoeffding_n(0.5, 2, 0.99) == 1
    # One more sample per answer would not do: the bound at n - 1 exceeds delta.
    for gap, answers, delta in [(0.1, 10, 0.05), (0.37, 4, 0.2), (0.01, 1000, 1e-6)]:
        n = hoeffding_n(gap, answers, delta)
        bound = [(answers - 1) * math.exp(-m * gap**2 / 2) for m in (n - 1, n)]
        assert bound[0] > delta >= bound[1] * (1 - 1e-9)


def test_bounds_say_nothing_for_an_answer_that_is_not_the_mode():
    for p in ([0.4, 0.4, 0.2], [0.3, 0.5, 0.2]):
        assert chernoff_error(p, 10**6) == hoeffding_error(p, 10**6) == 1.0
        with pytest.raises(ValueError, match=r"gap must lie in .* not the most frequent one"):
            chernoff_n(p, 0.1)
    assert chernoff_error([0.3, 0.5, 0.2], 1000, 1) < 1e-5
    assert chernoff_n([0.3, 0.5, 0.2], 0.05, 1) == chernoff_n([0.5, 0.3, 0.2], 0.05)


def test_tiny_gaps_are_answered_at_once():
    n = chernoff_n([0.5 + 5e-10, 0.5 - 5e-10], 0.05)
    assert n == pytest.approx(2 * math.log(20) / 1e-18, rel=1e-3)
    assert hoeffding_n(1e-9, 2, 0.05) == pytest.approx(2 * math.log(20) / 1e-18)
    for gap in (2e-5, 1e-5, 1e-9):
        n = necessary_n(gap, 0.05)
        # The variance of a vote difference is 1 - gap^2.
        assert n == pytest.approx(separation_constant(0.05) * (1 - gap**2) / gap**2, rel=1e-8)
    assert best_of_n_n(1e-15, 0.05) == pytest.approx(math.log(20) * 1e15)


def test_necessary_votes_are_the_least_that_the_exact_probability_allows():
    for gap in (1.0, 0.7, 0.4, 0.13, 0.02):
        for delta in (0.9, 0.5, 0.25, 0.1, 0.01):
            n = necessary_n(gap, delta)
            p = [(1 + gap) / 2, (1 - gap) / 2]
            assert n % 2 == 1
            curve = plurality_curve(p, np.arange(1, n + 1))
            assert curve[-1] >= 1 - delta - 1e-12
            assert n == 1 or curve[:-1].max() < 1 - delta


def test_published_votes_and_constants():
    assert [necessary_n(gap, 0.1) for gap in GAPS] == [9, 41, 163, 657, 2627, 10511]
    assert [best_of_n_n(gap, 0.1) for gap in GAPS] == [5, 11, 22, 45, 91, 184]
    for delta, constant, measured in [
        (0.25, 0.455, 0.455),
        (0.1, 1.642, 1.642),
        (0.05, 2.706, 2.705),
        (0.01, 5.412, 5.411),
    ]:
        assert separation_constant(delta) == pytest.approx(constant, abs=6e-4)
        assert necessary_n(0.0125, delta) * 0.0125**2 == pytest.approx(measured, abs=6e-4)
        assert necessary_n(1e-4, delta) * 1e-8 == pytest.approx(
            separation_constant(delta), rel=1e-5
        )


def test_slopes_of_the_two_worst_cases():
    for success, slope_votes, slope_best in zip(
        SUCCESSES, (1.99, 2.03, 2.00, 2.02), (1.03, 1.03, 1.05, 1.04), strict=True
    ):
        votes = [necessary_n(gap, 1 - success) for gap in GAPS]
        best = [best_of_n_n(gap, 1 - success) for gap in GAPS]
        assert -log_log_slope(GAPS, votes).slope == pytest.approx(slope_votes, abs=0.0051)
        assert -log_log_slope(GAPS, best).slope == pytest.approx(slope_best, abs=0.0051)


def least_votes(lead, rival, success):
    """Least n on (lead, rival, the rest never repeats), scanning a curve around a bisection."""
    law = [lead, rival] if rival > 0 else [lead]
    tail = 1 - math.fsum(law)
    low, high = 0, 1
    while plurality_success(law, high, tail=tail) < success:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        enough = plurality_success(law, middle, tail=tail) >= success
        low, high = (low, middle) if enough else (middle, high)
    return high


@pytest.mark.parametrize(
    ("exponent", "slope_votes", "slope_best"),
    [(0, 2.03, 0.0), (0.25, 1.80, 0.28), (0.5, 1.54, 0.52), (0.75, 1.28, 0.79), (1, 1.02, 1.02)],
)
def test_slopes_on_families_add_up_to_two(exponent, slope_votes, slope_best):
    gaps = (0.08, 0.04, 0.02, 0.01)
    leads = [0.5 * (2 * gap) ** exponent for gap in gaps]
    votes = [least_votes(p, max(0.0, p - gap), 0.9) for p, gap in zip(leads, gaps, strict=True)]
    best = [best_of_n_n(p, 0.1) for p in leads]
    votes = -log_log_slope(gaps, votes).slope
    best = -log_log_slope(gaps, best).slope
    assert abs(votes + best - 2) <= 0.12
    assert (votes, best) == pytest.approx((2 - exponent, exponent), abs=0.1)
    assert (votes, best) == pytest.approx((slope_votes, slope_best), abs=0.08)


def test_best_of_n_number_is_exact():
    for p in (Fraction(1, 2), Fraction(1, 5), Fraction(9, 10), Fraction(1, 100), Fraction(1)):
        for delta in (Fraction(1, 2), Fraction(1, 8), Fraction(1, 10**3), Fraction(1, 10**12)):
            n = best_of_n_n(float(p), float(delta))
            assert (1 - p) ** n <= delta
            assert n == 1 or (1 - p) ** (n - 1) > delta
    # 1 - 0.99 is above 0.01 by rounding only, which must not cost a sample.
    assert [best_of_n_n(0.99, 10.0**-digits) for digits in (2, 4, 6, 8)] == [1, 2, 3, 4]
    # On a law with this gap the correct answer is at least as likely as the gap.
    assert best_of_n_n(0.3, 0.05) <= math.ceil(math.log(20) / 0.3)


def subset_mean_success(rates, rounds):
    """Average over which experts get the rounds left over, in fractions."""
    turns, left = divmod(rounds, len(rates))
    subsets = list(itertools.combinations(range(len(rates)), left))
    total = Fraction(0)
    for subset in subsets:
        fail = Fraction(1)
        for index, rate in enumerate(rates):
            fail *= (1 - rate) ** (turns + (index in subset))
        total += 1 - fail
    return total / len(subsets)


@given(
    tenths=st.lists(st.integers(0, 10), min_size=1, max_size=6),
    rounds=st.integers(1, 15),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_round_robin_agrees_with_enumeration_and_beats_the_mixture(tenths, rounds):
    rates = [Fraction(t, 10) for t in tenths]
    value = round_robin_success([float(r) for r in rates], rounds)
    assert value == pytest.approx(float(subset_mean_success(rates, rounds)), abs=1e-14)
    mixture = mixture_success([float(r) for r in rates], rounds)
    mean = sum(rates) / len(rates)
    assert mixture == pytest.approx(float(1 - (1 - mean) ** rounds), abs=1e-14)
    assert value >= mixture - 1e-14


def test_round_robin_of_equal_experts_is_the_mixture():
    for rounds in (1, 3, 4, 9):
        assert round_robin_success([0.3] * 4, rounds) == pytest.approx(1 - 0.7**rounds)
        assert mixture_success([0.3] * 4, rounds) == pytest.approx(1 - 0.7**rounds)
    assert round_robin_success([1.0, 0.0, 0.0, 0.0], 4) == 1.0
    assert round_robin_success([1.0, 0.0, 0.0, 0.0], 3) == pytest.approx(0.75)
    assert mixture_success([1.0, 0.0, 0.0, 0.0], 4) == pytest.approx(1 - 0.75**4)


def test_rounds_until_the_right_deterministic_expert():
    assert rounds_needed(8, 0.05) == 8
    assert rounds_needed(8, 0.05, "iid") == 23
    assert rounds_needed(20, 0.05) == 19
    assert rounds_needed(1, 0.01) == rounds_needed(1, 0.01, "iid") == 1
    for num_experts in (2, 3, 7, 40, 1000):
        for delta in (0.5, 0.05, 1e-3):
            rounds = rounds_needed(num_experts, delta)
            assert rounds / num_experts >= 1 - delta - 1e-12 > (rounds - 1) / num_experts - 2e-12
            rounds = rounds_needed(num_experts, delta, "iid")
            assert (1 - 1 / num_experts) ** rounds <= delta * (1 + 1e-9)
            assert (1 - 1 / num_experts) ** (rounds - 1) > delta


def test_regret_bounds_are_the_formulas():
    assert regret_bound("round_robin", 8, 64) == pytest.approx(math.sqrt(2 * math.log(16) / 8))
    assert regret_bound("exp3", 8, 640) == pytest.approx(math.sqrt(2 * 8 * math.log(8) / 640))
    assert regret_bound("hedge", 8, 64) == pytest.approx(math.sqrt(math.log(8) / 2 / 64))
    gaps = [0.0, 0.5, 0.25]
    expected = 8 * math.log(10_000) * (2 + 4) + (1 + math.pi**2 / 3) * 0.75
    assert cumulative_regret_bound("ucb1", 3, 10_000, gaps=gaps) == pytest.approx(expected)
    assert regret_bound("UCB1", 3, 10_000, gaps=gaps) == pytest.approx(expected / 10_000)
    assert cumulative_regret_bound("eliminate", 6, 100) == 5
    assert regret_bound("eliminate", 6, 4) == pytest.approx(1 / 3)
    assert regret_bound("eliminate", 6, 6) == 0
    assert cumulative_regret_bound("uniform", 4, 10) == pytest.approx(7.5)
    assert cumulative_regret_bound("uniform", 3, 8, gaps=gaps) == pytest.approx(2)


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_regret_bounds_shrink_and_are_never_worse_than_trivial(controller):
    for num_experts in (1, 2, 8, 50):
        values = [regret_bound(controller, num_experts, 10**e) for e in range(8)]
        assert all(0 <= b <= a <= 1 for a, b in itertools.pairwise(values))
        assert values[-1] < 0.1
        for rounds in (1, 10, 1000):
            assert cumulative_regret_bound(controller, num_experts, rounds) <= rounds
    assert regret_bound(controller, 1, 10**9) < 1e-3


def test_ucb1_without_gaps_covers_every_gap():
    for num_experts in (2, 5):
        for rounds in (10, 1000, 10**6):
            free = cumulative_regret_bound("ucb1", num_experts, rounds)
            for gap in np.geomspace(1e-5, 1, 60):
                gaps = [0.0] + [gap] * (num_experts - 1)
                known = cumulative_regret_bound("ucb1", num_experts, rounds, gaps=gaps)
                # Regret is at most gap * T as well, and the bound without gaps knows that.
                assert min(known, gap * rounds) <= free * (1 + 1e-9)


def test_simulated_ucb1_regrets_less_than_its_bound():
    means = np.array([0.6, 0.5, 0.3])
    runs, rounds = 4000, 400
    rng = numpy_generator(4, "ucb1")
    pulls = np.zeros((runs, 3))
    sums = np.zeros((runs, 3))
    row = np.arange(runs)
    for t in range(rounds):
        with np.errstate(divide="ignore", invalid="ignore"):
            index = sums / pulls + np.sqrt(2 * math.log(max(t, 1)) / pulls)
        index[pulls == 0] = np.inf
        pick = index.argmax(1)
        pulls[row, pick] += 1
        sums[row, pick] += rng.random(runs) < means[pick]
    regret_R = pulls @ (means.max() - means)
    mean, error = regret_R.mean(), regret_R.std() / math.sqrt(runs)
    assert 15 < mean + 6 * error < cumulative_regret_bound("ucb1", 3, rounds, gaps=[0, 0.1, 0.3])
    assert mean + 6 * error < cumulative_regret_bound("ucb1", 3, rounds)


@pytest.mark.parametrize("controller", ["round-robin", "uniform"])
def test_simulated_exploration_regrets_less_than_its_bound(controller):
    runs, num_experts, rounds = 20_000, 5, 200
    rng = numpy_generator(6, controller)
    for spread in (0.05, 0.15, 0.4):
        means = 0.5 + spread * np.linspace(-1, 1, num_experts)
        if controller == "uniform":
            pulls = rng.multinomial(rounds, np.full(num_experts, 1 / num_experts), size=runs)
        else:
            pulls = np.full((runs, num_experts), rounds // num_experts)
        average = rng.binomial(pulls, means) / np.maximum(pulls, 1)
        regret_R = means.max() - means[average.argmax(1)]
        assert 0 < regret_R.mean() < regret_bound(controller, num_experts, rounds)


def test_self_correction_gap_adds_up():
    regret = regret_bound("hedge", 4, 1000)
    assert self_correction_gap(0.2, "hedge", 4, 1000) == pytest.approx(0.2 + regret)
    assert self_correction_gap(0.9, "exp3", 64, 10) == 1.0
    assert self_correction_gap(0.1, "eliminate", 5, 5) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hoeffding_n(0.0, 3, 0.1), "gap must lie"),
        (lambda: hoeffding_n(-0.1, 3, 0.1), "gap must lie"),
        (lambda: hoeffding_n(math.nan, 3, 0.1), "gap must lie"),
        (lambda: hoeffding_n(0.1, 1, 0.1), "answers must be at least 2, not 1"),
        (lambda: hoeffding_n(0.1, 3, 0.0), "delta must lie"),
        (lambda: hoeffding_n(0.1, 3, 1.0), "delta must lie"),
        (lambda: chernoff_error([0.5, 0.4], 3), "null=.*tail="),
        (lambda: chernoff_error([0.6, 0.4], 0), "n must be at least 1"),
        (lambda: chernoff_error([0.6, 0.4], 3, 2), "target must be in 0 … 1, not 2"),
        (lambda: chernoff_n([0.6, 0.4], 2.0), "delta must lie"),
        (lambda: hoeffding_error([-0.6, 1.6], 3), "p must hold probabilities"),
        (lambda: necessary_n(0.1, -1), "delta must lie"),
        (lambda: necessary_n(1.1, 0.1), "gap must lie"),
        (lambda: separation_constant(0.5), "delta must lie in .0, 1/2."),
        (lambda: best_of_n_n(0.0, 0.1), "without correct answers"),
        (lambda: best_of_n_n(1.2, 0.1), "p_correct must lie"),
        (lambda: best_of_n_n(0.2, 0.0), "delta must lie"),
        (lambda: mixture_success([], 3), "success must be a flat list"),
        (lambda: mixture_success([0.2, 1.2], 3), "success must hold probabilities, got 1.2"),
        (lambda: round_robin_success([0.2, math.nan], 3), "success must hold probabilities"),
        (lambda: round_robin_success([0.2], 0), "rounds must be at least 1, not 0"),
        (lambda: rounds_needed(0, 0.1), "num_experts must be at least 1"),
        (lambda: rounds_needed(3, 1.5), "delta must lie"),
        (lambda: rounds_needed(3, 0.1, "random"), "mode must be"),
        (lambda: regret_bound("greedy", 3, 10), "controller must be one of"),
        (lambda: regret_bound("ucb1", 0, 10), "num_experts must be at least 1"),
        (lambda: regret_bound("ucb1", 3, 0), "rounds must be at least 1"),
        (lambda: regret_bound("ucb1", 3, 10, gaps=[0, 0.1]), "gaps must hold 3 numbers"),
        (lambda: regret_bound("ucb1", 2, 10, gaps=[0.2, 0.1]), "0 for the best expert"),
        (lambda: regret_bound("ucb1", 2, 10, gaps=[0, 1.1]), "gaps must lie"),
        (lambda: self_correction_gap(-0.1, "ucb1", 2, 10), "best_gap must lie"),
    ],
)
def test_bad_values_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_uniform_exploration_pays_for_the_expert_with_few_rounds():
    # Two experts, 160 rounds: each has at least 40 but for a chance of 2 exp(-10).
    expected = math.sqrt(2 * math.log(4) / 40) + 2 * math.exp(-10)
    assert regret_bound("uniform", 2, 160) == pytest.approx(expected, rel=1e-9)
