"""The plurality probability against enumeration in fractions, closed forms and simulation."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, poisson

from modicum.core.device import numpy_generator
from modicum.testtime import plurality
from modicum.testtime._votes import binomial_table, likely_range, poisson_table
from modicum.testtime.plurality import check_answer_law, plurality_curve, plurality_success

TIES = ("random", "strict", "favor")


def worth(tie, others):
    if tie == "strict":
        return Fraction(int(others == 0))
    return Fraction(1) if tie == "favor" else Fraction(1, 1 + others)


def compositions(total, parts):
    for cuts in itertools.combinations(range(total + parts - 1), parts - 1):
        edges = (-1, *cuts, total + parts - 1)
        yield tuple(b - a - 1 for a, b in itertools.pairwise(edges))


def enumerated(p, n, target=0, tie="random", null=0, tail=0):
    """Sum over all outcomes of n samples, in fractions: answers, then lone answers, then nulls."""
    total = Fraction(0)
    for outcome in compositions(n, len(p) + 2):
        votes, lone = outcome[:-2], outcome[-2]
        best = max(*votes, 1 if lone else 0, 1)
        if votes[target] < best:
            continue
        others = sum(v == best for v in votes) - 1 + (lone if best == 1 else 0)
        chance = Fraction(math.factorial(n))
        for mass, count in zip((*p, tail, null), outcome, strict=True):
            chance *= Fraction(mass) ** count / math.factorial(count)
        total += chance * worth(tie, others)
    return total


def listed_sequences(p, n, tie):
    """Sum over all K**n sequences; "first" is judged from the sequence itself."""
    total = Fraction(0)
    for sequence in itertools.product(range(len(p)), repeat=n):
        votes = [sequence.count(answer) for answer in range(len(p))]
        tied = [answer for answer in range(len(p)) if votes[answer] == max(votes)]
        won = min(tied, key=sequence.index) == 0 if tie == "first" else 0 in tied
        total += math.prod((p[answer] for answer in sequence), start=Fraction(1)) * won
    return total


LAWS = [
    ((5, 3, 2), 0, 0),
    ((1, 1, 1, 1), 0, 0),
    ((3, 2), 3, 2),
    ((2, 1), 0, 17),
    ((4, 4, 4, 1, 1), 2, 0),
    ((2, 1), 1, 0),
    ((3,), 7, 0),
    ((3,), 0, 7),
    ((0, 1, 1), 0, 0),
    ((0, 1), 1, 0),
    ((0,), 0, 1),
    ((1,), 0, 0),
    ((1, 0, 0), 0, 0),
    ((1,), 10**6, 0),
]


@pytest.mark.parametrize("tie", TIES)
@pytest.mark.parametrize(("weights", "null", "tail"), LAWS)
def test_agrees_with_enumeration_in_fractions(weights, null, tail, tie):
    whole = sum(weights) + null + tail
    p = [Fraction(w, whole) for w in weights]
    null, tail = Fraction(null, whole), Fraction(tail, whole)
    for target in range(len(p)):
        for n in (1, 2, 3, 4, 7) if len(p) < 5 else (1, 4, 6):
            value = plurality_success(
                [float(x) for x in p], n, target, tie=tie, null=float(null), tail=float(tail)
            )
            truth = float(enumerated(p, n, target, tie, null, tail))
            assert value == pytest.approx(truth, abs=2e-15, rel=1e-9)


def test_ties_go_to_the_first_as_often_as_to_a_random_one():
    p = [Fraction(2, 5), Fraction(1, 5), Fraction(2, 5)]
    for n in (1, 2, 4, 6):
        value = plurality_success([0.4, 0.2, 0.4], n, tie="first")
        assert value == pytest.approx(float(listed_sequences(p, n, "first")), abs=1e-15)
        assert value == plurality_success([0.4, 0.2, 0.4], n, tie="random")
        favoured = plurality_success([0.4, 0.2, 0.4], n, tie="favor")
        assert favoured == pytest.approx(float(listed_sequences(p, n, "favor")), abs=1e-15)


def test_published_values():
    values = [plurality_success([0.5, 0.4, 0.1], n) for n in (1, 2, 3, 8, 40)]
    assert values == pytest.approx([0.5, 0.5, 0.54, 0.6085, 0.748061], abs=5e-5)
    assert values[-1] == pytest.approx(0.748061, abs=5e-7)
    assert plurality_success([0.3, 0.25, 0.2, 0.15, 0.1], 10) == pytest.approx(0.4198, abs=5e-5)
    assert plurality_success([0.3, 0.2], 6, null=0.3, tail=0.2) == pytest.approx(0.5697, abs=5e-5)
    value = plurality_success([0.2, 0.1, 0.1], 12, null=0.2, tail=0.4)
    assert value == pytest.approx(0.5830, abs=5e-5)
    assert plurality_success([0.1, 0.05], 10, tail=0.85) == pytest.approx(0.2917, abs=5e-5)


def convolved(weights, n, tie, null=0):
    """Success of answer 0 by convolution over answers in integers, votes and ties side by side."""
    whole = sum(weights) + null
    total = Fraction(0)
    for own in range(1, n + 1):
        ways = {(0, 0): 1}
        for weight in weights[1:]:
            merged = {}
            for (used, ties), count in ways.items():
                for votes in range(min(own, n - own - used) + 1):
                    state = (used + votes, ties + (votes == own))
                    choices = math.comb(n - own - used, votes) * weight**votes
                    merged[state] = merged.get(state, 0) + count * choices
            ways = merged
        for (used, ties), count in ways.items():
            rest = n - own - used
            chosen = math.comb(n, own) * weights[0] ** own * count * null**rest
            total += chosen * worth(tie, ties)
    return float(total / whole**n)


@pytest.mark.parametrize("tie", TIES)
def test_agrees_with_convolution_in_integers(tie):
    for weights, null, n in [((4, 3, 2, 1), 0, 45), ((3, 3, 3, 2, 2), 1, 30), ((1, 2, 2), 4, 60)]:
        whole = sum(weights) + null
        p = [w / whole for w in weights]
        value = plurality_success(p, n, tie=tie, null=null / whole)
        assert value == pytest.approx(convolved(weights, n, tie, null), abs=5e-15)


def two_answer_tail(n, p):
    half = binom.sf(n // 2, n, p)
    return half + (0.5 * binom.pmf(n // 2, n, p) if n % 2 == 0 else 0.0)


@pytest.mark.parametrize("n", [1, 2, 9, 100, 657, 10511, 10**6, 10**8])
def test_two_answers_are_a_binomial_tail(n):
    p = min(0.9, 0.5 + 0.4 / math.sqrt(n))
    assert plurality_success([p, 1 - p], n) == pytest.approx(two_answer_tail(n, p), abs=1e-9)


def test_the_two_answer_path_agrees_with_the_general_one():
    for n in (1, 2, 3, 50, 1001, 20000):
        p = min(0.8, 0.5 + 0.5 / math.sqrt(n))
        for null in (0.0, 0.3):
            for tie in TIES:
                duel = plurality._duel(p * (1 - null), (1 - p) * (1 - null), null, n, tie)
                rival = np.array([(1 - p) * (1 - null)])
                sizes = np.array([n])
                general = plurality._window(p * (1 - null), rival, sizes, tie, null, 0.0)
                assert general == pytest.approx(duel, abs=1e-13)


def test_needed_samples_of_the_two_answer_instances():
    # Least odd n with success .9 on ((1 + gap) / 2, (1 - gap) / 2).
    for gap, needed in [(0.4, 9), (0.2, 41), (0.1, 163), (0.05, 657), (0.025, 2627)]:
        before, at = plurality_curve([(1 + gap) / 2, (1 - gap) / 2], [needed - 2, needed])
        assert before < 0.9 <= at
    before, at = plurality_curve([0.50625, 0.49375], [10509, 10511])
    assert before < 0.9 <= at


@pytest.mark.parametrize("prob", [0.02, 0.001, 3e-5])
@pytest.mark.parametrize("n", [2, 50, 3000, 100_000])
def test_a_lone_repeater_among_answers_that_never_repeat(prob, n):
    # It wins with two votes or more, with one vote it shares with the n - 1 other answers.
    zero = math.exp(n * math.log1p(-prob))
    one = n * prob * math.exp((n - 1) * math.log1p(-prob))
    assert plurality_success([prob], n, tail=1 - prob) == pytest.approx(
        1 - zero - one + one / n, abs=1e-11
    )
    strict = plurality_success([prob], n, tail=1 - prob, tie="strict")
    assert strict == pytest.approx(1 - zero - one, abs=1e-11)
    favoured = plurality_success([prob], n, tail=1 - prob, tie="favor")
    assert favoured == pytest.approx(1 - zero, abs=1e-11)


@pytest.mark.parametrize(("num_answers", "n"), [(2, 5), (7, 300), (300, 2000), (1000, 500)])
def test_equal_answers_win_equally_often(num_answers, n):
    # Someone always wins, so by symmetry 1 / K: checks the shares of ties among hundreds.
    value = plurality_success(np.full(num_answers, 1 / num_answers), n)
    assert value == pytest.approx(1 / num_answers, rel=1e-9)


@pytest.mark.parametrize("n", [3, 40, 900, 20_000])
def test_someone_wins_every_vote(n):
    p = np.array([0.24, 0.22, 0.2, 0.2, 0.14])
    shares = [plurality_success(p, n, target) for target in range(len(p))]
    assert sum(shares) == pytest.approx(1, abs=1e-11)
    shares = [plurality_success(p / 2, n, target, null=0.5) for target in range(len(p))]
    assert sum(shares) == pytest.approx(1 - 0.5**n, abs=1e-11)


def test_dozens_of_different_answers_win_in_all():
    p = numpy_generator(5, "law").dirichlet(np.ones(30))
    strict, shared, favoured = (
        np.array([plurality_success(p, 400, target, tie=tie) for target in range(30)])
        for tie in ("strict", "random", "favor")
    )
    assert shared.sum() == pytest.approx(1, abs=1e-11)
    assert np.all(strict <= shared + 1e-13) and np.all(shared <= favoured + 1e-13)
    assert strict.sum() < 0.99 and favoured.sum() > 1.01
    # Two answers share a tie in halves, more in smaller parts.
    assert np.all(shared <= (strict + favoured) / 2 + 1e-13)


@given(
    weights=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    null=st.integers(0, 4),
    tail=st.integers(0, 4),
    n=st.integers(1, 5),
    tie=st.sampled_from(TIES),
    data=st.data(),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_random_laws_agree_with_enumeration(weights, null, tail, n, tie, data):
    whole = sum(weights) + null + tail
    if whole == 0:
        return
    target = data.draw(st.integers(0, len(weights) - 1))
    p = [Fraction(w, whole) for w in weights]
    null, tail = Fraction(null, whole), Fraction(tail, whole)
    value = plurality_success(
        [float(x) for x in p], n, target, tie=tie, null=float(null), tail=float(tail)
    )
    truth = float(enumerated(p, n, target, tie, null, tail))
    assert value == pytest.approx(truth, abs=2e-15, rel=1e-9)


SIMULATED = [
    ([0.3, 0.25, 0.2, 0.15, 0.1], 0.0, 0.0, 35),
    ([0.2, 0.1, 0.1], 0.2, 0.4, 12),
    ([0.06] + [0.047] * 20, 0.0, 0.0, 200),
    ([0.02, 0.015], 0.5, 0.465, 60),
]


@pytest.mark.parametrize(("p", "null", "tail", "n"), SIMULATED)
def test_agrees_with_200_000_simulated_votes(p, null, tail, n):
    runs = 200_000
    rng = numpy_generator(11, "plurality", len(p))
    votes_RK = rng.multinomial(n, [*p, null + tail], size=runs)[:, :-1].astype(np.int32)
    other_R = n - votes_RK.sum(1)
    lone_R = rng.binomial(other_R, tail / (null + tail) if tail else 0.0)
    best_R = np.maximum(votes_RK.max(1), (lone_R > 0).astype(np.int32))
    tied_R = (votes_RK == best_R[:, None]).sum(1) + lone_R * (best_R == 1)
    won_R = np.where((votes_RK[:, 0] == best_R) & (best_R > 0), 1 / np.maximum(tied_R, 1), 0.0)
    error = won_R.std() / math.sqrt(runs)
    # A deviation of 5.5 standard errors has probability 4e-8; the stream is fixed besides.
    assert abs(plurality_success(p, n, null=null, tail=tail) - won_R.mean()) < 5.5 * error
    assert error < 0.0012


def test_a_curve_is_its_values_one_by_one():
    p = [0.4, 0.35, 0.05]
    for null, tail in [(0.2, 0.0), (0.0, 0.2), (0.1, 0.1)]:
        ns = np.arange(1, 400)
        curve = plurality_curve(p, ns, null=null, tail=tail)
        single = [plurality_success(p, int(n), null=null, tail=tail) for n in ns[::13]]
        assert curve[::13] == pytest.approx(single, abs=1e-14)


def test_a_curve_keeps_order_shape_and_repeats():
    ns = np.array([[900, 3, 3], [40, 1, 12000]])
    curve = plurality_curve([0.4, 0.35, 0.25], ns)
    assert curve.shape == ns.shape
    for value, n in zip(curve.ravel(), ns.ravel(), strict=True):
        assert value == pytest.approx(plurality_success([0.4, 0.35, 0.25], int(n)), abs=1e-12)
    assert plurality_curve([0.4, 0.35, 0.25], []).shape == (0,)


def test_success_of_the_mode_does_not_fall_on_random_laws():
    # Observed, not proven: planners scan around what their bisection finds.
    rng = numpy_generator(3, "laws")
    for _ in range(60):
        p = np.sort(rng.dirichlet(np.ones(rng.integers(2, 6))))[::-1]
        assert np.diff(plurality_curve(p, np.arange(1, 15))).min() > -1e-12


def test_a_wrong_mode_wins_in_the_limit():
    curve = plurality_curve([0.3, 0.4, 0.3], [1, 20, 200, 2000])
    assert np.all(np.diff(curve) < 0)
    assert curve[-1] < 1e-4
    assert plurality_success([0.35, 0.35, 0.3], 20_000) == pytest.approx(0.5, abs=1e-9)


def poisson_mixture(p, mean, tie, null, tail):
    """Success at fixed n, averaged over a Poisson number of samples."""
    high = int(poisson.isf(1e-15, mean))
    ns = np.arange(1, high + 1)
    return poisson.pmf(ns, mean) @ plurality_curve(p, ns, tie=tie, null=null, tail=tail)


@pytest.mark.parametrize("tie", TIES)
@pytest.mark.parametrize("mean", [1, 10, 60])
def test_poissonised_is_exact_for_a_poisson_number_of_samples(mean, tie):
    for p, null, tail in [([0.5, 0.3, 0.2], 0, 0), ([0.3, 0.2], 0.1, 0.4), ([0.2], 0, 0.8)]:
        value = plurality_success(p, mean, tie=tie, null=null, tail=tail, method="poissonised")
        assert value == pytest.approx(poisson_mixture(p, mean, tie, null, tail), abs=1e-13)


def test_poissonised_is_close_to_a_fixed_number():
    laws = ([0.5, 0.3, 0.2], [0.5, 0.4, 0.1], [0.3, 0.25, 0.2, 0.15, 0.1])
    for n, largest in [(10, 0.0077), (40, 0.0026), (160, 0.0006)]:
        differences = [
            abs(plurality_success(p, n) - plurality_success(p, n, method="poissonised"))
            for p in laws
        ]
        assert largest / 1.3 < max(differences) < largest
    assert plurality_success([0.4, 0.35, 0.25], 10**6, method="poissonised") == pytest.approx(1)


def test_large_numbers_stay_exact_to_the_rounding():
    # Two equal leaders far above the rest share the vote evenly.
    p = [0.4, 0.4, 0.1, 0.1]
    assert plurality_success(p, 100_000) == pytest.approx(0.5, abs=1e-11)
    # A third answer that cannot win leaves a two-answer race among a binomial number of votes.
    law = binomial_table(30_000, 0.9)
    votes = law.low + np.arange(len(law.pmf_I))
    race = law.pmf_I @ np.array([two_answer_tail(m, 0.453 / 0.9) for m in votes])
    assert plurality_success([0.453, 0.447, 0.1], 30_000) == pytest.approx(race, abs=1e-11)


@pytest.mark.parametrize("mean", [0.0, 1e-300, 0.3, 7.5, 1000.0, 123456.7])
def test_poisson_table(mean):
    law = poisson_table(mean)
    counts = law.low + np.arange(len(law.pmf_I))
    assert law.pmf_I == pytest.approx(poisson.pmf(counts, mean), rel=1e-8, abs=1e-17)
    assert poisson.cdf(law.low - 1, mean) + poisson.sf(law.high, mean) < 1e-17


@pytest.mark.parametrize("trials", [0, 1, 5, 400, 50_000])
@pytest.mark.parametrize("prob", [0.0, 1e-4, 0.37, 0.5, 0.999, 1.0])
def test_binomial_table(trials, prob):
    law = binomial_table(trials, prob)
    counts = law.low + np.arange(len(law.pmf_I))
    assert law.pmf_I == pytest.approx(binom.pmf(counts, trials, prob), rel=1e-8, abs=1e-17)
    assert binom.cdf(law.low - 1, trials, prob) + binom.sf(law.high, trials, prob) < 1e-17


@pytest.mark.parametrize("mean", [0.01, 1.0, 50.0, 1e6])
def test_likely_range_covers(mean):
    low, high = likely_range(mean)
    assert poisson.cdf(low - 1, mean) < 1e-17
    assert poisson.sf(high, mean) < 1e-17


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([0.5, -0.1, 0.6], 3), {}, "p must hold probabilities"),
        (([0.5, math.nan], 3), {}, "p must hold probabilities"),
        (([0.5, math.inf], 3), {}, "p must hold probabilities"),
        (([], 3), {}, "p must be a flat list"),
        (([[0.5, 0.5]], 3), {}, "p must be a flat list"),
        (([0.6, 0.5], 3), {}, "must sum to 1"),
        (([0.5, 0.5], 3), {"null": 0.1}, "must sum to 1"),
        (([0.5, 0.4], 3), {}, "null=.*tail="),
        (([0.5, 0.3], 3), {"null": 0.1}, "must sum to 1"),
        (([0.5, 0.3], 3), {"null": -0.2, "tail": 0.4}, "null must lie"),
        (([0.5, 0.3], 3), {"tail": math.nan}, "tail must lie"),
        (([0.5, 0.5], 0), {}, "n must be at least 1, got 0"),
        (([0.5, 0.5], -4), {}, "n must be at least 1, got -4"),
        (([0.5, 0.5], 3, 2), {}, "target must be in 0 … 1, not 2"),
        (([0.5, 0.5], 3, -1), {}, "target must be in 0 … 1, not -1"),
        (([0.5, 0.5], 3), {"tie": "last"}, "tie must be one of"),
        (([0.5, 0.5], 3), {"method": "monte-carlo"}, "method must be one of"),
    ],
)
def test_bad_values_are_named(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        plurality_success(*arguments, **options)


@pytest.mark.parametrize("n", [2.0, "3", True])
def test_n_must_be_an_integer(n):
    with pytest.raises(TypeError, match="n must be an integer"):
        plurality_success([0.5, 0.5], n)


@pytest.mark.parametrize("target", [1.0, "a", True, None])
def test_target_must_be_an_integer(target):
    with pytest.raises(TypeError, match="target must be an integer"):
        plurality_success([0.5, 0.5], 3, target)


def test_a_law_is_scaled_to_one():
    p_K, null, tail = check_answer_law([0.5, 0.2], 0.2, 0.1 + 5e-10)
    assert p_K.sum() + null + tail == pytest.approx(1, abs=1e-15)
