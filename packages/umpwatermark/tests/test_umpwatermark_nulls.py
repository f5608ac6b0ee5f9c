"""Null laws given the text: by quadrature, enumeration and independent convolution."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import binom, norm

from modicum.umpwatermark import nulls
from modicum.umpwatermark.nulls import (
    FiniteLaw,
    LatticeLaw,
    PivotMatchLaw,
    chernoff_bound,
    combined_null_scores,
    draws_for,
    fft_upper_bound,
    lattice_tail,
    match_chance,
    monte_carlo,
    saddlepoint,
    solve_tilt,
    tail,
    upper_bound,
)

PAIRS = [(0.3, 0.3), (0.7, 0.0), (0.0, 0.7), (0.05, 0.9), (0.6, 0.3), (0.01, 0.01)]


def law_of(prob, pair=(0.3, 0.3), **more):
    return PivotMatchLaw(np.atleast_1d(np.asarray(prob, dtype=float)), (pair,), **more)


def mean_of(fn, h, a, b, reach=None):
    """E0 of fn(score), by quadrature in the pivot: M given Y is summed."""

    def score(chance, match):
        return math.log((1 - a - b) + (a / h) * chance + (b / h) * match)

    if reach is not None:
        # Y below 1 - hz, Y above with M = 0, and with M = 1.
        hz = h / reach
        return (
            (1 - hz) * fn(score(0.0, 0))
            + hz * (1 - reach) * fn(score(reach, 0))
            + hz * reach * fn(score(reach, 1))
        )

    def inner(t):
        # -ln Y = t^2: the integrand is smooth and decays fast at every h.
        chance = math.exp(-(1 / h - 1) * t * t)
        mean = chance * fn(score(chance, 1)) + (1 - chance) * fn(score(chance, 0))
        return mean * math.exp(-t * t) * 2 * t

    width = min(6.0, 6 / math.sqrt(1 / h - 1)) if h < 1 else 6.0
    points = sorted({0.0, width / 6, width, min(6.0, 6 * width), 6.0})
    return sum(
        quad(inner, lo, hi, epsabs=1e-14, epsrel=1e-13, limit=200)[0]
        for lo, hi in itertools.pairwise(points)
    ) + math.exp(-36.0) * fn(score(0.0, 0))


@pytest.mark.parametrize("h", [1e-6, 1e-4, 0.013, 0.2, 0.77, 1.0])
@pytest.mark.parametrize("pair", PAIRS)
def test_mean_of_each_e_value_is_one(h, pair):
    assert mean_of(math.exp, h, *pair) == pytest.approx(1, abs=1e-10)
    for reach in (1.0, math.sqrt(h), h):
        assert mean_of(math.exp, h, *pair, reach=reach) == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("h", [1e-6, 0.013, 0.2, 0.5, 0.93, 1.0])
@pytest.mark.parametrize("pair", PAIRS)
def test_distribution_function_integrates_the_score(h, pair):
    """E0[s] from the closed distribution function equals that from quadrature."""
    law = law_of(h, pair)
    cells = law.cells(20_000, middle=True)
    mean = cells.cumulants(0.0)[1]
    # Each cell's mass sits within half a cell of its place; its middle errs by less than that.
    assert mean == pytest.approx(mean_of(lambda s: s, h, *pair), abs=1e-3)
    low, high = law.cells(400).values_SJ[0, [0, -1]]
    grid = np.linspace(low - 0.1, high + 0.1, 500)
    cdf = law.cdf(grid)[0]
    assert np.all(np.diff(cdf) >= -1e-15) and cdf[0] == 0 and cdf[-1] == 1


@pytest.mark.parametrize("sampler", ["gumbel", "hazard"])
def test_law_of_pivot_and_match_is_that_of_a_keyed_race(sampler):
    """P(M | Y) against races over whole vocabularies; |z| < 6 on 2 x 10 cells: error 4e-8."""
    from modicum.umpwatermark.samplers.gumbel import gumbel_argmax
    from modicum.umpwatermark.samplers.hazard import hazard_choice

    rng = np.random.default_rng(11)
    q = np.array([0.35, 0.3, 0.2, 0.1, 0.05])
    draws = 100_000
    u = rng.random((draws, 5))
    q_BV = np.broadcast_to(q, u.shape)
    choice = (
        gumbel_argmax(np.log(q_BV), u) if sampler == "gumbel" else hazard_choice(q_BV.copy(), u)
    )
    for x in (1, 3):
        y = u[:, x]
        reach = None if sampler == "gumbel" else np.full(draws, q[x:].sum())
        chance = match_chance(y, np.full(draws, q[x]), reach)
        match = choice == x
        cell = np.minimum((y * 10).astype(int), 9)
        for k in range(10):
            here = cell == k
            mean, spread = chance[here].sum(), np.sqrt((chance * (1 - chance))[here].sum())
            assert abs(match[here].sum() - mean) <= 6 * spread + 6, (x, k)
            if spread == 0:
                assert match[here].sum() == mean


def exact_two_point_tail(probs, pair, observed):
    """P0(total >= observed) of the match statistic, by enumerating all outcomes."""
    b = pair[1]
    total = 0.0
    for outcome in np.ndindex(*(2,) * len(probs)):
        s = sum(
            math.log1p(-b) if not m else math.log(1 - b + b / h)
            for m, h in zip(outcome, probs, strict=True)
        )
        p = math.prod(h if m else 1 - h for m, h in zip(outcome, probs, strict=True))
        total += p * (s >= observed - 1e-12)
    return total


def test_bound_of_the_match_statistic_against_enumeration():
    probs, pair = [0.4, 0.03, 0.9, 0.2, 0.55, 0.11], (0.0, 0.7)
    law = law_of(probs, pair)
    totals = np.unique(np.round(law.draw_totals(2000, np.random.default_rng(0)), 9))
    for observed in totals:
        exact = exact_two_point_tail(probs, pair, observed - 1e-9)
        bound = fft_upper_bound(law, observed - 1e-9)
        assert exact <= bound * (1 + 1e-12)
        # No two of these totals are closer than the lattice, so little is lost.
        assert fft_upper_bound(law, observed - 1e-9, 1e-4) <= exact * 1.2 + 1e-12


def grid_tail(probs, pair, observed, step=2e-3):
    """Lower and upper tail of up to three tokens by brute force over pivots and matches.

    Independent of the closed distribution function: scores on a fine grid of -ln Y per token,
    each cell taken at its best and at its worst end.
    """
    a, b = pair
    lows, highs = None, None
    for h in probs:
        rate = max(1 / h - 1, 1e-9)
        inner = np.concatenate([np.linspace(0, 12 / rate, 4001), np.linspace(0, 40, 4001)])
        t = np.unique(np.clip(inner, 0, 40))
        mass = np.exp(-t[:-1]) - np.exp(-t[1:])
        up, down = np.exp(-rate * t[:-1]), np.exp(-rate * t[1:])
        # The integral of Y^(1/h - 1) over the cell: h (r^(1/h) - l^(1/h)).
        with_match = h * (np.exp(-t[:-1] / h) - np.exp(-t[1:] / h))
        values_up = [np.log(1 - a - b + a / h * up + b / h * m) for m in (1, 0)]
        values_down = [np.log(1 - a - b + a / h * down + b / h * m) for m in (1, 0)]
        masses = np.concatenate([with_match, np.maximum(mass - with_match, 0)])
        parts = []
        for values, rounder in ((values_down, np.floor), (values_up, np.ceil)):
            index = rounder(np.concatenate(values) / step).astype(int)
            offset = index.min()
            parts.append((offset, np.bincount(index - offset, weights=masses)))
        lows = parts[0] if lows is None else convolve(lows, parts[0])
        highs = parts[1] if highs is None else convolve(highs, parts[1])
    return tail_of(lows, observed, step), tail_of(highs, observed, step)


def convolve(left, right):
    return left[0] + right[0], np.convolve(left[1], right[1])


def tail_of(law, observed, step):
    at = math.ceil(observed / step - 1e-9) - law[0]
    return float(law[1][max(at, 0) :].sum())


@pytest.mark.parametrize(
    "probs", [(0.2,), (1e-3,), (0.5, 0.05), (0.9, 0.3), (0.6, 0.1, 0.02), (0.99, 0.97, 1e-4)]
)
@pytest.mark.parametrize("pair", [(0.3, 0.3), (0.7, 0.0), (0.2, 0.6)])
def test_bound_lies_above_the_exact_tail_of_one_two_and_three_tokens(probs, pair):
    law = law_of(probs, pair)
    high = float(np.log(1 - sum(pair) + sum(pair) / law.prob_S).sum())
    for observed in np.linspace(-1.0, high - 0.05, 9):
        lower, upper = grid_tail(probs, pair, observed)
        bound = fft_upper_bound(law, observed)
        assert bound >= lower * (1 - 1e-9) - 1e-14
        # And with a fine lattice it is the tail.
        fine = fft_upper_bound(law, observed, 1e-3)
        assert lower * (1 - 1e-9) - 1e-14 <= fine <= upper * 1.05 + 1e-9


def test_bound_lies_above_monte_carlo_and_how_loose_it_is():
    """40 and 300 tokens: above the count of draws less six standard errors (1e-9 each)."""
    rng = np.random.default_rng(5)
    for size in (40, 300):
        law = law_of(np.clip(rng.beta(0.5, 0.5, size), 1e-6, 1))
        draws = 100_000 if size == 40 else 20_000
        totals = law.draw_totals(draws, rng)
        for level in (0.1, 0.01, 0.001):
            observed = float(np.quantile(totals, 1 - level))
            count = int((totals >= observed).sum())
            bound = fft_upper_bound(law, observed)
            spread = math.sqrt(count)
            assert bound >= (count - 6 * spread) / draws
            # The lattice costs about exp(S step / 2) = exp(1/4) at most.
            assert bound <= math.exp(0.25) * (count + 6 * spread) / draws


def test_bounds_order_and_monotonicity():
    rng = np.random.default_rng(3)
    law = law_of(np.clip(rng.beta(0.4, 0.6, 60), 1e-6, 1))
    observed = np.linspace(-30, 40, 12)
    bounds = np.array([fft_upper_bound(law, x) for x in observed])
    assert np.all(np.diff(bounds) <= 1e-9 * bounds[:-1])
    assert bounds[0] == pytest.approx(1, abs=1e-4) and bounds[-1] < 1e-15
    for x, bound in zip(observed, bounds, strict=True):
        assert chernoff_bound(law, x) >= bound * 0.9
        assert upper_bound(law, x) <= min(1, math.exp(-min(x, 700))) * (1 + 1e-12)


def test_lattice_tail_keeps_relative_accuracy_far_out():
    """Against the binomial law at 1e-5 … 1e-200."""
    laws = [LatticeLaw(0, np.array([0.7, 0.3]), 400)]
    finite = FiniteLaw(np.array([[0.0, 1.0]]), np.array([[0.7, 0.3]]), copies=400)
    for hits in (121, 160, 250, 390, 400):
        tilt = solve_tilt(finite, min(hits, 399.5))
        ours = lattice_tail(laws, hits, tilt, 1.0)
        assert ours == pytest.approx(binom.sf(hits - 1, 400, 0.3), rel=1e-6)
    mixed = [LatticeLaw(-2, np.array([0.5, 0.0, 0.5])), LatticeLaw(1, np.array([0.25, 0.75]))]
    assert lattice_tail(mixed, 2, 0.0, 1.0) == pytest.approx(0.375)
    assert lattice_tail(mixed, -5, 0.0, 1.0) == 1.0


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=8),
    st.just(0.0) | st.floats(1e-9, 0.9),
    st.just(0.0) | st.floats(0.01, 1.0),
    st.integers(0, 2**31),
)
def test_every_drawn_total_has_a_bound_above_its_rank(probs, a, share, seed):
    """The bound is at least the share of 4000 draws minus what chance allows (error 1e-9 each)."""
    a, b = nulls.check_weights((a, (0.95 - a) * share)) if a or share else (0.0, 0.5)
    law = law_of(probs, (a, b))
    totals = np.sort(law.draw_totals(4000, np.random.default_rng(seed)))
    for rank in (3800, 3990):
        observed = totals[rank]
        count = int((totals >= observed - 1e-9).sum())
        assert fft_upper_bound(law, observed) >= (count - 7 * math.sqrt(count) - 10) / 4000


def test_hazard_law_is_that_of_its_three_values():
    h, reach, (a, b) = 0.12, 0.4, (0.3, 0.5)
    law = law_of([h, 0.5], (a, b), reach_S=np.array([reach, 0.5]))
    hz = h / reach
    values = np.log([1 - a - b, 1 - a - b + a / hz, 1 - a - b + a / hz + b / h])
    cdf = law.cdf(np.array(values + 1e-12))[0]
    np.testing.assert_allclose(cdf, [1 - hz, 1 - h, 1.0], atol=1e-14)
    np.testing.assert_allclose(
        law.cdf(np.array(values - 1e-9))[0], [0.0, 1 - hz, 1 - h], atol=1e-14
    )
    totals = law.draw_totals(40_000, np.random.default_rng(1))
    assert np.exp(totals).mean() == pytest.approx(1, abs=6 * np.exp(totals).std() / 200)


def test_winsorised_law():
    clip = (math.log(0.4), 1.0)
    law = law_of([0.01, 0.3, 0.8], (0.7, 0.0), clip=clip)
    assert not law.is_log_e and law_of([0.5], clip=clip).is_log_e
    totals = law.draw_totals(20_000, np.random.default_rng(2))
    assert totals.min() >= 3 * clip[0] - 1e-9 and totals.max() <= 3 * clip[1] + 1e-9
    for level in (0.2, 0.02):
        observed = np.quantile(totals, 1 - level)
        count = (totals >= observed - 1e-9).sum()
        assert fft_upper_bound(law, observed) >= (count - 6 * math.sqrt(count)) / 20_000
    values = FiniteLaw(np.array([[-3.0, 2.0]]), np.array([[0.5, 0.5]]), clip=(-1.0, 1.0))
    assert values.values_SJ.tolist() == [[-1.0, 1.0]] and not values.is_log_e


def test_finite_law_draws_and_bounds():
    """Draws of three-point laws against their bound; error 1e-9 each."""
    rng = np.random.default_rng(6)
    values = np.sort(rng.normal(size=(30, 3)), axis=1)
    probs = rng.dirichlet(np.ones(3), 30)
    law = FiniteLaw(values, probs, is_log_e=False)
    totals = law.draw_totals(50_000, rng)
    mean, variance = law.cumulants(0.0)[1:]
    assert totals.mean() == pytest.approx(mean, abs=6 * math.sqrt(variance / 50_000))
    for level in (0.1, 0.003):
        observed = np.quantile(totals, 1 - level)
        count = (totals >= observed).sum()
        bound = fft_upper_bound(law, observed)
        assert (count - 6 * math.sqrt(count)) / 50_000 <= bound
        assert bound <= 1.4 * (count + 6 * math.sqrt(count)) / 50_000
    copies = FiniteLaw(np.array([[0.0, 1.0]]), np.array([[0.6, 0.4]]), False, copies=200)
    drawn = copies.draw_totals(20_000, rng)
    assert drawn.mean() == pytest.approx(80, abs=6 * math.sqrt(48 / 20_000))
    assert fft_upper_bound(copies, 100.0) == pytest.approx(binom.sf(99, 200, 0.4), rel=1e-9)
    assert chernoff_bound(copies, 100.0) >= binom.sf(99, 200, 0.4)


def test_long_texts_get_chernoff_and_fewer_draws():
    rng = np.random.default_rng(8)
    law = law_of(np.clip(rng.beta(0.5, 0.5, nulls.MOST_CONVOLVED + 10), 1e-6, 1))
    totals = law.draw_totals(200, rng)
    middle = float(np.median(totals))
    assert 0.5 <= upper_bound(law, middle) <= 1
    assert upper_bound(law, middle + 8 * totals.std()) < 1e-8
    assert draws_for(100, 9999) == 9999 and draws_for(100_000, 9999) == 4000
    assert draws_for(10**9, 9999) == 999 and draws_for(10**9, 99) == 99


@pytest.mark.parametrize("size", [60, 200])
def test_saddlepoint_is_close_where_scores_are_many(size):
    rng = np.random.default_rng(9)
    law = law_of(np.clip(rng.beta(1.0, 1.0, size), 1e-6, 1))
    for level in (0.3, 0.01, 1e-6):
        mean, variance = law.cells(1024, middle=True).cumulants(0.0)[1:]
        observed = mean + norm.isf(level) * math.sqrt(variance)
        close = fft_upper_bound(law, observed, 1 / (4 * size))
        assert saddlepoint(law, observed) == pytest.approx(close, rel=0.12)
    assert saddlepoint(law, mean - 2 * math.sqrt(variance)) > 0.9
    assert 0.3 < saddlepoint(law, mean) < 0.7


def test_tail_switches_from_draws_to_bound():
    law = law_of(np.full(30, 0.3))
    near = tail(law, 0.0, rng=np.random.default_rng(0))
    assert near.method == "mc" and near.p_value == pytest.approx(
        monte_carlo(law, 0.0, 9999, np.random.default_rng(0))[0]
    )
    far = tail(law, 30.0, rng=np.random.default_rng(0))
    assert far.method == "bound" and far.p_value <= math.exp(-30.0)
    assert tail(law, 30.0, method="mc", rng=np.random.default_rng(0)) == (1e-4, "mc")
    assert tail(law, 3.0, method="saddlepoint").method == "saddlepoint"
    assert tail(law, 3.0, method="fft").p_value == fft_upper_bound(law, 3.0)
    assert tail(law_of([]), 0.0) == (1.0, "exact")
    with pytest.raises(ValueError, match="rng"):
        tail(law, 3.0)
    with pytest.raises(ValueError, match="method"):
        tail(law, 3.0, method="exact")


def test_switching_is_valid_on_both_sides_of_the_draws_reach():
    """19 draws reach down to .05: 4000 null texts at .1, .05, .03 and .005; error 3e-7 each."""
    rng = np.random.default_rng(12)
    law = law_of(np.clip(rng.beta(0.5, 0.5, 8), 1e-6, 1))
    observed = law.draw_totals(4000, rng)
    found = [tail(law, x, num_draws=19, rng=rng) for x in observed]
    p = np.array([one.p_value for one in found])
    for level in (0.1, 0.05, 0.03, 0.005):
        assert (p <= level + 1e-12).sum() <= binom.isf(3e-7, 4000, level), level
    assert {one.method for one in found} == {"mc", "bound"}
    # Below the draws' reach the bound decides, at it or above the draws do.
    assert all((one.method == "bound") == (one.p_value < 0.05) for one in found)


def test_a_loose_bound_does_not_hide_what_the_draws_saw():
    law = PivotMatchLaw(np.full(400, 0.9), ((0.3, 0.3), (0.7, 0.0), (0.0, 0.7)))
    assert upper_bound(law, -60.0) == 1.0
    drawn = tail(
        law,
        float(law.draw_totals(99, np.random.default_rng(1)).max()) + 30.0,
        num_draws=99,
        rng=np.random.default_rng(0),
    )
    assert drawn.p_value <= 0.01


def test_empty_laws_have_no_evidence():
    law = law_of([])
    for bound in (fft_upper_bound, chernoff_bound, upper_bound, saddlepoint):
        assert bound(law, 0.0) == 1.0
    assert law.draw_totals(5, np.random.default_rng(0)).tolist() == [0.0] * 5


def test_extreme_probabilities_stay_finite():
    law = law_of([1e-6] * 20 + [1.0] * 20, (0.49, 0.5))
    totals = law.draw_totals(2000, np.random.default_rng(0))
    assert np.isfinite(totals).all()
    top = float(law.e_values(np.ones(40), np.ones(40, dtype=bool)).prod())
    assert np.isfinite(top) and top > 1e100
    bound = fft_upper_bound(law, math.log(top))
    # All twenty must match: 1e-6 each.
    assert bound == pytest.approx(1e-120, rel=1e-3)


@pytest.mark.parametrize(
    "weights",
    [(0.5, 0.5), (-0.1, 0.2), (0.0, 0.0), (0.9, 0.2), (0.3,), (1e-12, 0.5), (0.5, 0.5 - 1e-12)],
)
def test_bad_weights(weights):
    with pytest.raises(ValueError, match="weights"):
        nulls.check_weights(weights)


def test_many_texts_at_once():
    probs = np.random.default_rng(1).uniform(0.05, 1, (3, 20))
    totals = combined_null_scores(probs, (0.3, 0.3), 500, np.random.default_rng(2))
    assert totals.shape == (3, 500)
    rng = np.random.default_rng(2)
    np.testing.assert_array_equal(totals[0], law_of(probs[0]).draw_totals(500, rng))
    assert combined_null_scores(np.zeros((0, 5)), num_draws=7).shape == (0, 7)
