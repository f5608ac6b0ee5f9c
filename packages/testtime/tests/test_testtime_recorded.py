"""Estimates from recorded samples against the enumeration of every subset."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.core.device import numpy_generator
from modicum.testtime.plurality import plurality_curve, plurality_success
from modicum.testtime.recorded import (
    Curve,
    Recorded,
    best_of_k,
    curve,
    fit_coverage,
    maj_at_k,
    maj_curve,
    pass_at_k,
    verified_majority_at_k,
    vote_counts,
    weighted_at_k,
)

TIES = ("random", "strict", "favor")


def worth(tie, others):
    if tie == "strict":
        return Fraction(int(others == 0))
    return Fraction(1) if tie == "favor" else Fraction(1, 1 + others)


def weighted_vote(keys, weights, correct, tie):
    """Value of one vote to the correct answer."""
    sums = {}
    for key, weight in zip(keys, weights, strict=True):
        if key is not None:
            sums[key] = sums.get(key, 0) + weight
    if correct not in sums or sums[correct] < max(sums.values()):
        return Fraction(0)
    return worth(tie, sum(value == sums[correct] for value in sums.values()) - 1)


def subset_mean(size, k, value):
    subsets = list(itertools.combinations(range(size), k))
    return sum((Fraction(value(subset)) for subset in subsets), Fraction(0)) / len(subsets)


def enumerated_vote(keys, correct, k, tie="random", weights=None):
    weights = [1] * len(keys) if weights is None else weights
    return subset_mean(
        len(keys),
        k,
        lambda subset: weighted_vote(
            [keys[i] for i in subset], [weights[i] for i in subset], correct, tie
        ),
    )


def spelled_out(counts, null=0):
    return [j for j, count in enumerate(counts) for _ in range(count)] + [None] * null


@pytest.mark.parametrize("tie", TIES)
@pytest.mark.parametrize(
    ("counts", "null"),
    [
        ((5, 4, 3), 0),
        ((4, 4), 2),
        ((1, 1, 1, 1, 1, 1), 1),
        ((3,), 4),
        ((0, 3, 2), 1),
        ((6, 0, 1), 0),
        ((2, 2, 2, 1, 1), 0),
        ((0,), 3),
    ],
)
def test_majority_agrees_with_every_subset(counts, null, tie):
    keys = spelled_out(counts, null)
    for target in range(len(counts)):
        truth = [float(enumerated_vote(keys, target, k, tie)) for k in range(1, len(keys) + 1)]
        ks = np.arange(1, len(keys) + 1)
        assert maj_curve(counts, ks, target, tie=tie, null=null) == pytest.approx(truth, abs=3e-15)
        for k in (1, len(keys)):
            value = maj_at_k(counts, k, target, tie=tie, null=null)
            assert value == pytest.approx(truth[k - 1], abs=3e-15)


@given(
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    null=st.integers(0, 3),
    tie=st.sampled_from(TIES),
    data=st.data(),
)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_random_counts_agree_with_every_subset(counts, null, tie, data):
    keys = spelled_out(counts, null)
    if not keys:
        return
    k = data.draw(st.integers(1, len(keys)))
    target = data.draw(st.integers(0, len(counts) - 1))
    truth = float(enumerated_vote(keys, target, k, tie))
    assert maj_at_k(counts, k, target, tie=tie, null=null) == pytest.approx(truth, abs=3e-15)


def test_published_value_and_alias():
    assert maj_at_k([5, 4, 3], 4) == pytest.approx(0.484848, abs=5e-7)
    assert maj_at_k([5, 4, 3], 4, tie="first") == maj_at_k([5, 4, 3], 4)


def hypergeometric_duel(first, second, k):
    """Exact vote of two answers, in integers."""
    total = Fraction(0)
    for votes in range(max(0, k - second), min(first, k) + 1):
        ways = math.comb(first, votes) * math.comb(second, k - votes)
        total += ways * (Fraction(1, 2) if 2 * votes == k else Fraction(int(2 * votes > k)))
    return float(total / math.comb(first + second, k))


@pytest.mark.parametrize(
    ("first", "second"), [(13, 12), (60, 40), (1020, 980), (2100, 2050), (7, 5000)]
)
def test_thousands_of_samples_agree_with_integer_arithmetic(first, second):
    size = first + second
    ks = sorted({1, 2, 3, size // 10, size // 2, size // 2 + 1, size - 2, size - 1, size})
    truth = [hypergeometric_duel(first, second, k) for k in ks]
    assert maj_curve([first, second], ks) == pytest.approx(truth, abs=1e-12)


def three_way(counts, k):
    """Exact vote of three answers, in integers; the third gets what the others leave."""
    total = Fraction(0)
    for a in range(min(counts[0], k) + 1):
        for b in range(min(counts[1], k - a) + 1):
            votes = (a, b, k - a - b)
            if votes[2] <= counts[2] and a == max(votes):
                ways = math.prod(math.comb(c, v) for c, v in zip(counts, votes, strict=True))
                total += Fraction(ways, votes.count(a))
    return float(total / math.comb(sum(counts), k))


@pytest.mark.parametrize("k", [5, 40, 90, 119, 120])
def test_three_answers_agree_with_integer_arithmetic(k):
    assert maj_at_k([45, 40, 35], k) == pytest.approx(three_way((45, 40, 35), k), abs=1e-13)


def test_someone_is_elected_from_thousands():
    counts = [900, 850, 800, 50, 7, *[1] * 93]
    for k in (1, 16, 700, 2600, 2700):
        total = sum(maj_at_k(counts, k, j) for j in range(5)) + 93 * maj_at_k(counts, k, 5)
        assert total == pytest.approx(1, abs=1e-11)
    assert sum(maj_at_k([6, 5], 4, j, null=9) for j in range(2)) == pytest.approx(
        1 - math.comb(9, 4) / math.comb(20, 4)
    )


def test_a_large_record_tends_to_independent_samples():
    p = np.array([0.5, 0.3, 0.2])
    counts = np.round(p * 4_000_000).astype(int)
    for k in (1, 9, 40):
        assert maj_at_k(counts, k) == pytest.approx(plurality_success(p, k), abs=1e-5)


def test_estimate_is_unbiased():
    # Averaged over all records of six samples, the estimate is the success with k fresh ones.
    p = [Fraction(1, 2), Fraction(1, 3), Fraction(1, 6)]
    size = 6
    mean = np.zeros(size)
    for a, b in itertools.product(range(size + 1), repeat=2):
        votes = (a, b, size - a - b)
        if votes[2] < 0:
            continue
        chance = math.factorial(size) * math.prod(
            x**v / math.factorial(v) for x, v in zip(p, votes, strict=True)
        )
        mean += float(chance) * maj_curve(votes, np.arange(1, size + 1))
    truth = plurality_curve([float(x) for x in p], np.arange(1, size + 1))
    assert mean == pytest.approx(truth, abs=1e-13)


def test_curve_keeps_order_shape_and_repeats():
    ks = np.array([[64, 1], [16, 16]])
    values = maj_curve([30, 20, 14], ks)
    assert values.shape == (2, 2)
    assert values[0, 0] == pytest.approx(1, abs=1e-14)
    assert values[1, 0] == values[1, 1] == pytest.approx(maj_at_k([30, 20, 14], 16))
    assert values[0, 1] == pytest.approx(30 / 64)
    assert maj_curve([30, 20], np.array([], dtype=int)).shape == (0,)


def test_pass_at_k_agrees_with_every_subset():
    for size in range(1, 9):
        for right in range(size + 1):
            for k in range(1, size + 1):
                truth = 1 - Fraction(math.comb(size - right, k), math.comb(size, k))
                assert pass_at_k(size, right, k) == pytest.approx(float(truth), abs=1e-15)
    assert str(pass_at_k(5, 0, 2)) == "0.0"
    assert pass_at_k(10_000, 3, 7) == pytest.approx(
        float(1 - Fraction(math.comb(9997, 7), math.comb(10_000, 7))), rel=1e-12
    )
    assert pass_at_k(10**6, 400_000, 600_001) == 1.0


@pytest.mark.parametrize(
    ("rewards", "correct"),
    [
        ([0.1, 0.5, 0.3, 0.9, 0.2], [1, 0, 1, 0, 1]),
        ([1, 1, 0, 0, 1, 0], [1, 0, 0, 1, 1, 0]),
        ([2, 2, 2, 2], [1, 0, 0, 0]),
        ([3, 1, 3, 2, 2, 1, 3], [True, True, False, True, False, False, False]),
        ([-4.5], [1]),
    ],
)
def test_best_of_k_agrees_with_every_subset(rewards, correct):
    def value(subset):
        best = max(rewards[i] for i in subset)
        tied = [int(correct[i]) for i in subset if rewards[i] == best]
        return Fraction(sum(tied), len(tied))

    for k in range(1, len(rewards) + 1):
        truth = float(subset_mean(len(rewards), k, value))
        assert best_of_k(rewards, correct, k) == pytest.approx(truth, abs=1e-15)


def test_a_perfect_verifier_reaches_coverage():
    correct = [1, 0, 0, 1, 0, 0, 0]
    for k in range(1, 8):
        assert best_of_k(correct, correct, k) == pytest.approx(pass_at_k(7, 2, k))
    rewards = np.repeat([0.0, 1.0], [9000, 20])
    assert best_of_k(rewards, rewards, 300) == pytest.approx(pass_at_k(9020, 20, 300), rel=1e-12)


KEYS = ["a", "b", "a", None, "c", "b", "a", "b", None]
REWARDS = [0.9, 0.6, 0.2, 0.8, 0.7, 0.1, 0.3, 0.6, 0.4]


@pytest.mark.parametrize("tie", TIES)
@pytest.mark.parametrize("fallback", ["majority", "max", "abstain"])
@pytest.mark.parametrize("threshold", [0.05, 0.5, 0.6, 0.85, 2.0])
def test_verified_majority_agrees_with_every_subset(threshold, fallback, tie):
    def value(subset):
        accepted = [i for i in subset if REWARDS[i] >= threshold]
        if not accepted and fallback == "abstain":
            return Fraction(0)
        if not accepted and fallback == "max":
            best = max(REWARDS[i] for i in subset)
            tied = [KEYS[i] == "a" for i in subset if REWARDS[i] == best]
            return Fraction(sum(tied), len(tied))
        voting = [KEYS[i] for i in (accepted or subset)]
        return weighted_vote(voting, [1] * len(voting), "a", tie)

    for k in range(1, len(KEYS) + 1):
        truth = float(subset_mean(len(KEYS), k, value))
        result = verified_majority_at_k(
            KEYS, REWARDS, "a", k, threshold=threshold, fallback=fallback, tie=tie
        )
        assert result == pytest.approx(truth, abs=1e-14)


@pytest.mark.parametrize("tie", TIES)
def test_weighted_vote_is_exact_where_all_subsets_are_visited(tie):
    weights = [3, 1, 1, 5, 0, 2, 2, 0, 1]
    for k in range(1, len(KEYS) + 1):
        for correct in ("a", "b", "c", "never seen"):
            truth = float(enumerated_vote(KEYS, correct, k, tie, weights))
            estimate = weighted_at_k(KEYS, weights, correct, k, tie=tie)
            assert estimate.mean == pytest.approx(truth, abs=1e-14)
            assert estimate.se == 0


def test_sums_that_differ_by_rounding_are_tied():
    keys = ["a", "a", "a", "b"]
    weights = [0.1, 0.1, 0.1, 0.3]
    assert 0.1 + 0.1 + 0.1 != 0.3
    assert weighted_at_k(keys, weights, "a", 4).mean == 0.5
    assert weighted_at_k(keys, weights, "b", 4).mean == 0.5


def test_drawn_subsets_agree_within_the_error_they_state():
    counts, null = [14, 11, 8], 7
    keys = spelled_out(counts, null)
    ones = np.ones(len(keys))
    for seed, k in enumerate((4, 10, 25)):
        estimate = weighted_at_k(keys, ones, 0, k, n_subsets=40_000, seed=seed)
        # 5.5 standard errors: 4e-8, and the draws are fixed.
        assert abs(estimate.mean - maj_at_k(counts, k, null=null)) < 5.5 * estimate.se
        assert 0.001 < estimate.se < 0.003
    again = weighted_at_k(keys, ones, 0, 10, n_subsets=40_000, seed=1)
    assert again == weighted_at_k(keys, ones, 0, 10, n_subsets=40_000, seed=1)
    assert again != weighted_at_k(keys, ones, 0, 10, n_subsets=40_000, seed=2)


def test_drawn_subsets_in_several_blocks(monkeypatch):
    monkeypatch.setattr("modicum.testtime.recorded.BLOCK_ENTRIES", 100)
    keys = spelled_out([14, 11, 8])
    estimate = weighted_at_k(keys, np.ones(33), 0, 9, n_subsets=5001)
    assert abs(estimate.mean - maj_at_k([14, 11, 8], 9)) < 5.5 * estimate.se
    assert estimate.se == pytest.approx(math.sqrt(0.22 / 5001), rel=0.1)


def test_votes_are_counted_with_the_correct_answer_first():
    counts, null = vote_counts(["x", None, "y", "y", math.nan, "x", "y"], "x")
    assert counts.tolist() == [2, 3] and null == 2
    counts, null = vote_counts(["y", "z"], "x")
    assert counts.tolist() == [0, 1, 1] and null == 0
    assert vote_counts([None], 5)[0].tolist() == [0]
    with pytest.raises(TypeError, match="unhashable"):
        vote_counts([["x"]], "x")
    for nothing in (None, math.nan):
        with pytest.raises(ValueError, match="correct_key must be an answer"):
            vote_counts(["x"], nothing)


def some_prompts():
    rng = numpy_generator(8, "prompts")
    prompts = []
    for _ in range(5):
        keys = [None if x == 3 else int(x) for x in rng.integers(0, 4, size=12)]
        prompts.append(Recorded(keys, 0, rng.integers(0, 3, size=12).astype(float).tolist()))
    return prompts


def test_data_set_curves_are_means_of_the_estimates():
    prompts = some_prompts()
    ks = [1, 4, 12]
    by_hand = {
        "majority": lambda p, k: maj_at_k(*vote_counts(p.keys, 0)[:1], k, null=p.keys.count(None)),
        "coverage": lambda p, k: pass_at_k(12, p.keys.count(0), k),
        "best_of_n": lambda p, k: best_of_k(p.rewards, [key == 0 for key in p.keys], k),
        "weighted": lambda p, k: weighted_at_k(p.keys, p.rewards, 0, k).mean,
        "verified_majority": lambda p, k: verified_majority_at_k(
            p.keys, p.rewards, 0, k, threshold=2, fallback="max"
        ),
    }
    for select, value in by_hand.items():
        result = curve(iter(prompts), ks, select, threshold=2, fallback="max")
        table = np.array([[value(p, k) for k in ks] for p in prompts])
        assert result.per_prompt == pytest.approx(table, abs=1e-12)
        assert result.mean == pytest.approx(table.mean(0), abs=1e-12)
        assert result.se == pytest.approx(table.std(0, ddof=1) / math.sqrt(5), abs=1e-12)
        assert result.ks.tolist() == ks


def test_curve_passes_ties_on():
    prompts = [Recorded([0, 1], 0, [1.0, 1.0])]
    for select in ("majority", "weighted", "verified_majority"):
        means = [curve(prompts, [2], select, tie=tie).mean[0] for tie in TIES]
        assert means == [0.5, 0.0, 1.0]


def test_drawn_weighted_curves_use_new_subsets_for_each_prompt_and_repeat_themselves():
    keys = spelled_out([9, 8, 7])
    prompt = Recorded(keys, 0, np.ones(24).tolist())
    result = curve([prompt, prompt], [9], "weighted", n_subsets=500, seed=3)
    assert result.per_prompt[0] != result.per_prompt[1]
    again = curve([prompt, prompt], [9], "weighted", n_subsets=500, seed=3)
    assert np.array_equal(result.per_prompt, again.per_prompt)


def test_one_prompt_has_no_standard_error():
    result = curve([Recorded(["a", "b"], "a")], [1, 2])
    assert result.mean.tolist() == [0.5, 0.5]
    assert np.isnan(result.se).all()


def test_standard_error_covers_the_truth():
    # Prompts of mixed difficulty, ten recorded samples each: the mean of the estimates is within
    # 1.96 standard errors of the truth in 95 % of data sets.
    rng = numpy_generator(9, "coverage of the interval")
    data_sets, prompts, k = 400, 60, 3
    p = rng.beta(2, 2, size=(data_sets, prompts))
    right = rng.binomial(10, p)
    truth = 1 - np.mean((1 - rng.beta(2, 2, size=2_000_000)) ** k)
    inside = 0
    for row in right:
        result = Curve.of([k], [[pass_at_k(10, int(c), k)] for c in row])
        inside += abs(result.mean[0] - truth) < 1.96 * result.se[0]
    # Binomial(400, .94): outside these limits with probability below 1e-7 (seed fixed besides).
    assert 345 <= inside <= 398


@pytest.mark.parametrize(("a", "b"), [(2.0, 0.4), (0.3, 1.1), (6.0, 0.15), (1e-3, 0.5), (9.0, 0.9)])
def test_the_power_law_is_recovered(a, b):
    ks = np.array([1, 2, 4, 8, 16, 32, 64, 128, 1000])
    fit = fit_coverage(ks, np.exp(-a * ks**-b))
    assert (fit.a, fit.b) == pytest.approx((a, b), rel=1e-5)
    assert fit.rmse < 1e-9
    assert fit.predict(10_000) == pytest.approx(math.exp(-a * 10_000**-b), abs=1e-8)
    assert fit.predict(ks).shape == ks.shape


def test_the_power_law_is_recovered_from_noisy_coverage():
    ks = np.array([1, 2, 4, 8, 16, 32, 64, 128])
    truth = np.exp(-2.5 * ks**-0.45)
    noise = 0.004 * numpy_generator(1, "noise").standard_normal(len(ks))
    fit = fit_coverage(ks, truth + noise)
    assert (fit.a, fit.b) == pytest.approx((2.5, 0.45), rel=0.05)
    assert 0.001 < fit.rmse < 0.008
    # A point of which little is known is passed by.
    wild = truth.copy()
    wild[3] = 0.05
    weighted = fit_coverage(ks, wild, se=np.where(ks == 8, 10.0, 0.001))
    assert (weighted.a, weighted.b) == pytest.approx((2.5, 0.45), rel=1e-3)
    assert abs(fit_coverage(ks, wild).b - 0.45) > 0.05


def test_prompts_of_power_law_difficulty_follow_the_fit():
    # Beta(b, 20) has a density like p^(b - 1) at 0; then 1 - coverage falls like k^(-b).
    ks = 2 ** np.arange(12, 21)
    b = 0.4
    missed = np.exp(
        [
            math.lgamma(20 + k) + math.lgamma(20 + b) - math.lgamma(20 + b + k) - math.lgamma(20)
            for k in ks
        ]
    )
    fit = fit_coverage(ks, 1 - missed)
    assert fit.b == pytest.approx(b, abs=0.02)
    assert fit.rmse < 0.001


def test_samples_for_inverts_predict():
    fit = fit_coverage([1, 4, 16], np.exp(-2.0 * np.array([1, 4, 16]) ** -0.5))
    assert fit.predict(fit.samples_for(0.9)) == pytest.approx(0.9)
    assert fit.samples_for(0.9) == pytest.approx((2 / -math.log(0.9)) ** 2)
    assert fit.samples_for(0.01) == 1.0
    flat = fit_coverage([1, 4, 16], [0.5, 0.5, 0.5])
    assert flat.b == pytest.approx(0, abs=1e-6)
    assert flat.predict(10**6) == pytest.approx(0.5, abs=1e-5)
    assert flat.samples_for(0.9) == math.inf
    # Falling coverage is met by the flattest law, not by a negative exponent.
    assert fit_coverage([1, 4, 16], [0.5, 0.4, 0.3]).b == pytest.approx(0, abs=1e-6)
    # Points at 0 and 1 count, though they have no place on the straight line of the start.
    assert 0 < fit_coverage([1, 2, 4, 64], [0.0, 0.3, 0.6, 1.0]).rmse < 0.15


GOOD = {"keys": ["a", "b", "a"], "correct_key": "a", "k": 2}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: maj_at_k([], 1), "counts must be a flat list"),
        (lambda: maj_at_k([[2, 1]], 1), "counts must be a flat list"),
        (lambda: maj_at_k([2, -1], 1), "counts must be >= 0, got -1"),
        (lambda: maj_at_k([2, 1], 0), "k must be in 1 … 3, .* not 0"),
        (lambda: maj_at_k([2, 1], 4), "k must be in 1 … 3, .* not 4"),
        (lambda: maj_at_k([2, 1], 2, 2), "target must be in 0 … 1, not 2"),
        (lambda: maj_at_k([2, 1], 2, null=-1), "null must be at least 0, not -1"),
        (lambda: maj_at_k([2, 1], 2, tie="last"), "tie must be one of"),
        (lambda: maj_at_k([0, 0], 1), "no recorded samples"),
        (lambda: pass_at_k(0, 0, 1), "n must be at least 1"),
        (lambda: pass_at_k(3, 4, 1), "c must be in 0 … 3, not 4"),
        (lambda: pass_at_k(3, 1, 4), "k must be in 1 … 3, not 4"),
        (lambda: best_of_k([], [], 1), "rewards must be a flat list"),
        (lambda: best_of_k([1, math.nan], [1, 0], 1), "reward of sample 1 must be finite, not nan"),
        (lambda: best_of_k([math.inf, 1], [1, 0], 1), "reward of sample 0 must be finite, not inf"),
        (lambda: best_of_k([1, 2], [1], 1), "must have one length"),
        (lambda: best_of_k([1, 2], [1, 2], 1), "correct must hold true and false"),
        (lambda: best_of_k([1, 2], [1, 0], 3), "k must be in 1 … 2, not 3"),
        (lambda: verified_majority_at_k(rewards=[1, 0], **GOOD), "3 keys and 2 rewards"),
        (
            lambda: verified_majority_at_k(rewards=[1, 0, 1], fallback="none", **GOOD),
            "fallback must be one of",
        ),
        (
            lambda: verified_majority_at_k(rewards=[1, 0, 1], threshold=math.nan, **GOOD),
            "threshold must be finite",
        ),
        (lambda: weighted_at_k(weights=[1, 0], **GOOD), "3 keys and weights of shape"),
        (lambda: weighted_at_k(weights=[1, -0.5, 1], **GOOD), "weight of sample 1 .* not -0.5"),
        (lambda: weighted_at_k(weights=[1, 1, math.inf], **GOOD), "weight of sample 2"),
        (lambda: weighted_at_k(weights=[1, 1, 1], n_subsets=1, **GOOD), "n_subsets must be at"),
        (lambda: weighted_at_k(["a"], [1], None, 1), "correct_key must be an answer"),
        (lambda: weighted_at_k([], [], "a", 1), "k must be in 1 … 0"),
        (lambda: curve([Recorded(["a"], "a")], [1], "mean"), "select must be one of"),
        (lambda: curve([Recorded(["a"], "a")], [1], "best_of_n"), "prompt 0: .* needs rewards"),
        (
            lambda: curve([Recorded(["a", "a"], "a"), Recorded(["a"], "a")], [1, 2]),
            "prompt 1: k must be in 1 … 1, .* not 2",
        ),
        (lambda: curve([], [1]), "at least one prompt"),
        (lambda: Curve.of([1, 2], [[0.5]]), r"per_prompt must have shape \[P, 2\]"),
        (lambda: Curve.of([1], [[0.5], [math.nan]]), "estimates of prompt 1 are not finite"),
        (lambda: fit_coverage([1, 2], [0.5]), "of one length"),
        (lambda: fit_coverage([0, 2], [0.5, 0.6]), "ks must be at least 1"),
        (lambda: fit_coverage([1, 2], [0.5, 1.6]), "coverage must lie"),
        (lambda: fit_coverage([1, 2], [0.0, 0.6]), "at two different k"),
        (lambda: fit_coverage([2, 2], [0.5, 0.6]), "at two different k"),
        (lambda: fit_coverage([1, 2], [0.5, 0.6], se=[0.1, 0.0]), "se must hold 2 positive"),
        (lambda: fit_coverage([1, 2], [0.5, 0.6]).samples_for(1.0), "coverage must lie in"),
    ],
)
def test_bad_values_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: maj_at_k([2.0, 1.0], 1),
        lambda: maj_at_k([2, 1], 1.0),
        lambda: maj_at_k([2, 1], 1, null=0.5),
        lambda: pass_at_k(3, 1.0, 1),
        lambda: best_of_k([1, 2], [1, 0], 1.0),
        lambda: weighted_at_k(weights=[1, 1, 1], n_subsets=2.5, **GOOD),
        lambda: curve([Recorded(["a"], "a")], [1.0]),
    ],
)
def test_counting_arguments_must_be_integers(call):
    with pytest.raises(TypeError, match=r"must be (an )?integer"):
        call()
