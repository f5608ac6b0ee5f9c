"""Intervals against SciPy, exact coverage sums, and simulations with a stated error probability.

A simulated coverage is compared with the binomial quantiles of the nominal level at 5e-7 on either
side, so such a test fails by chance with probability below 1e-6; all seeds are fixed.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from modicum.core.stats import (
    bootstrap_interval,
    clopper_pearson,
    log_log_slope,
    median_interval,
    paired_difference,
    ratio_of_medians_interval,
)


def consistent_with_level(covered: int, trials: int, level: float) -> bool:
    low, high = stats.binom.ppf([5e-7, 1 - 5e-7], trials, level)
    return low <= covered <= high


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("n", [1, 2, 17, 60])
def test_clopper_pearson_matches_scipy(n, level):
    lows, highs = clopper_pearson(np.arange(n + 1), n, level)
    for k in range(n + 1):
        expected = stats.binomtest(k, n).proportion_ci(level, method="exact")
        assert (lows[k], highs[k]) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_clopper_pearson_covers_exactly():
    n, level = 30, 0.95
    low, high = clopper_pearson(np.arange(n + 1), n, level)
    for p in np.linspace(0.001, 0.999, 211):
        covered = stats.binom.pmf(np.arange(n + 1), n, p)[(low <= p) & (p <= high)].sum()
        assert level <= covered <= 1 + 1e-12


def test_clopper_pearson_scalars_and_errors():
    assert clopper_pearson(0, 5)[0] == 0.0
    assert clopper_pearson(5, 5)[1] == 1.0
    for k, n in ((-1, 5), (6, 5), (0, 0)):
        with pytest.raises(ValueError, match="counts"):
            clopper_pearson(k, n)
    for level in (0.0, 1.0, 95.0):
        with pytest.raises(ValueError, match="level"):
            clopper_pearson(1, 2, level)


def cut_of(interval: tuple[float, float], ordered: np.ndarray) -> int:
    """How many order statistics the interval leaves out on each side."""
    left = int(np.searchsorted(ordered, interval[0]))
    assert interval[1] == ordered[-1 - left]
    return left


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [6, 7, 8, 25, 100, 401])
def test_median_interval_has_exact_coverage_and_is_the_shortest(n, level):
    ordered = np.arange(float(n))
    interval = median_interval(np.random.default_rng(0).permutation(ordered), level)

    def coverage(cut: int) -> float:
        """P(cut < number of observations below the median < n - cut), a continuous law."""
        return float(stats.binom.cdf(n - cut - 1, n, 0.5) - stats.binom.cdf(cut, n, 0.5))

    if interval == (-math.inf, math.inf):
        assert coverage(0) < level
        return
    left = cut_of(interval, ordered)
    assert coverage(left) >= level - 1e-12
    assert coverage(left + 1) < level


def test_median_interval_takes_values_that_were_never_reached():
    x = [5.0, 7.0, 9.0, 11.0, 13.0, math.inf, math.inf, math.inf]
    low, high = median_interval(x, 0.9)
    assert (low, high) == (7.0, math.inf)
    assert median_interval([1.0, 2.0, 3.0], 0.95) == (-math.inf, math.inf)


@pytest.mark.parametrize("p", [0.3, 0.5, 0.8])
def test_median_interval_covers_for_a_discrete_law(p):
    # X is 0 or 1: the count of ones decides everything, so coverage is an exact sum.
    n, level = 20, 0.95
    median = 0.5 if p == 0.5 else round(p)
    covered = 0.0
    for ones in range(n + 1):
        low, high = median_interval(np.r_[np.zeros(n - ones), np.ones(ones)], level)
        if low <= median <= high:
            covered += stats.binom.pmf(ones, n, p)
    assert covered >= level


def test_median_interval_errors():
    with pytest.raises(ValueError, match="at least 1"):
        median_interval([])
    with pytest.raises(ValueError, match="NaN"):
        median_interval([1.0, math.nan])
    with pytest.raises(ValueError, match="one-dimensional"):
        median_interval([[1.0]])


@pytest.mark.parametrize("method", ["percentile", "BCa"])
@pytest.mark.parametrize("statistic", [np.mean, np.median, np.std])
def test_bootstrap_agrees_with_scipy_and_is_reproducible(method, statistic):
    x = np.random.default_rng(4).exponential(size=45)

    def along_last_axis(values, axis=-1):
        return statistic(values, axis=axis)

    ours = bootstrap_interval(x, along_last_axis, 0.9, 11, 4000, method)
    theirs = stats.bootstrap(
        (x,),
        along_last_axis,
        confidence_level=0.9,
        n_resamples=4000,
        method=method,
        rng=np.random.default_rng(11),
        vectorized=True,
    ).confidence_interval
    # SciPy draws the same indices from the same generator, so the resamples are identical; it
    # interpolates between order statistics where ours rounds outwards.
    width = theirs.high - theirs.low
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.01 * width)
    assert ours[0] <= theirs.low + 1e-12
    assert theirs.high - 1e-12 <= ours[1]
    assert bootstrap_interval(x, along_last_axis, 0.9, 11, 4000, method) == ours
    generator = np.random.default_rng(11)
    assert bootstrap_interval(x, along_last_axis, 0.9, generator, 4000, method) == ours


def test_bootstrap_mean_covers_as_a_t_interval_nearly_does():
    rng = np.random.default_rng(8)
    covered = 0
    for _ in range(600):
        low, high = bootstrap_interval(rng.normal(size=80), rng=rng, n_resamples=499, level=0.9)
        covered += low <= 0.0 <= high
    # The percentile interval's true coverage for a normal mean at n = 80 is that of a z-interval
    # with variance divided by n, here .893.
    exact = 1 - 2 * stats.t.sf(stats.norm.ppf(0.95) * math.sqrt(79 / 80), 79)
    assert consistent_with_level(covered, 600, exact)


def test_bootstrap_of_an_infinite_statistic():
    x = np.r_[np.arange(1.0, 12.0), np.full(9, math.inf)]
    low, high = bootstrap_interval(x, lambda values: np.median(values, axis=-1))
    assert 1 <= low < 11
    assert high == math.inf
    with pytest.raises(ValueError, match="BCa"):
        bootstrap_interval(
            np.r_[x, math.inf, math.inf, math.inf, math.inf],
            lambda values: np.median(values, axis=-1),
            method="BCa",
        )


def test_bootstrap_of_a_constant_sample_is_that_constant():
    for method in ("percentile", "BCa"):
        assert bootstrap_interval(np.full(9, 3.0), method=method, n_resamples=50) == (3.0, 3.0)


def test_bootstrap_errors():
    with pytest.raises(ValueError, match="at least 2"):
        bootstrap_interval([1.0])
    with pytest.raises(ValueError, match="method"):
        bootstrap_interval([1.0, 2.0], method="basic")
    with pytest.raises(ValueError, match="last axis"):
        bootstrap_interval([1.0, 2.0], lambda values: values)
    with pytest.raises(ValueError, match="n_resamples"):
        bootstrap_interval([1.0, 2.0], n_resamples=0)
    with pytest.raises(ValueError, match="NaN"):
        bootstrap_interval([1.0, 2.0], lambda values: np.full(values.shape[0], math.nan))


def test_resamples_in_blocks_are_the_whole_sample(monkeypatch):
    from modicum.core.stats import intervals

    x = np.random.default_rng(0).normal(size=30)
    whole = bootstrap_interval(x, rng=5, n_resamples=101)
    monkeypatch.setattr(intervals, "_BLOCK_NUMBERS", 70)
    assert bootstrap_interval(x, rng=5, n_resamples=101) == whole


@pytest.mark.parametrize("factor", [0.5, 0.8, 3.0])
def test_paired_ratio_of_proportional_samples_is_known(factor):
    y = np.r_[np.random.default_rng(1).exponential(size=41), math.inf, math.inf]
    ratio, interval = ratio_of_medians_interval(factor * y, y, n_resamples=300, paired=True)
    assert ratio == pytest.approx(factor, rel=1e-12)
    assert interval == pytest.approx((factor, factor), rel=1e-12)
    _, (low, high) = ratio_of_medians_interval(factor * y, y, n_resamples=300)
    assert low < factor < high


def test_ratio_of_medians_covers():
    rng = np.random.default_rng(21)
    covered, trials = 0, 300
    for _ in range(trials):
        x, y = np.exp(rng.normal(size=120)), 2 * np.exp(rng.normal(size=100))
        _, (low, high) = ratio_of_medians_interval(x, y, 0.9, rng, 299)
        covered += low <= 0.5 <= high
    # The percentile interval is approximate; allow its true coverage to be anywhere in .86 to .95.
    low, _ = stats.binom.ppf([5e-7, 1 - 5e-7], trials, 0.86)
    _, high = stats.binom.ppf([5e-7, 1 - 5e-7], trials, 0.95)
    assert low <= covered <= high


def test_ratio_with_values_never_reached():
    reached, mixed = np.arange(1.0, 10.0), np.r_[np.arange(1.0, 5.0), np.full(5, math.inf)]
    ratio, (low, high) = ratio_of_medians_interval(reached, mixed)
    assert ratio == 0.0
    assert low == 0.0
    assert math.isfinite(high)
    ratio, (low, high) = ratio_of_medians_interval(mixed, mixed)
    assert math.isnan(ratio)
    assert (low, high) == (0.0, math.inf)
    ratio, _ = ratio_of_medians_interval(mixed, reached)
    assert ratio == math.inf
    never = np.full(5, math.inf)
    for paired in (False, True):
        assert ratio_of_medians_interval(never, never, paired=paired)[1] == (0.0, math.inf)


def test_ratio_errors():
    with pytest.raises(ValueError, match="positive"):
        ratio_of_medians_interval([1.0, 0.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="length"):
        ratio_of_medians_interval([1.0, 2.0], [1.0, 1.0, 1.0], paired=True)


@settings(deadline=None, max_examples=60)
@given(
    st.floats(-4, 4),
    st.floats(-5, 5),
    st.lists(st.floats(0.01, 1000), min_size=2, max_size=12, unique=True),
)
def test_slope_of_an_exact_power_law(slope, log_scale, x):
    x = np.array(x)
    spread = np.log(x).max() - np.log(x).min()
    if spread < 1e-3:
        return
    result = log_log_slope(x, np.exp(log_scale) * x**slope)
    assert result.slope == pytest.approx(slope, abs=1e-10 / spread)
    if len(x) > 2:
        assert result.stderr < 1e-9 / spread
        assert result.interval[0] - 1e-10 / spread <= slope <= result.interval[1] + 1e-10 / spread
    else:
        assert result.interval == (-math.inf, math.inf)
        assert result.stderr == math.inf


def test_slope_matches_scipy():
    rng = np.random.default_rng(3)
    x = rng.uniform(1, 50, size=14)
    y = 2 * x**-1.3 * np.exp(0.2 * rng.normal(size=14))
    ours, theirs = log_log_slope(x, y, 0.99), stats.linregress(np.log(x), np.log(y))
    assert ours.slope == pytest.approx(theirs.slope, rel=1e-10)
    assert ours.intercept == pytest.approx(theirs.intercept, rel=1e-10)
    assert ours.stderr == pytest.approx(theirs.stderr, rel=1e-9)
    reach = stats.t.ppf(0.995, 12) * theirs.stderr
    assert ours.interval == pytest.approx((theirs.slope - reach, theirs.slope + reach), rel=1e-9)


def test_slope_interval_covers_at_its_level():
    rng = np.random.default_rng(17)
    x = np.array([0.3, 0.1, 0.03, 0.01, 0.003])
    covered = 0
    for _ in range(4000):
        y = x**-1.5 * np.exp(0.1 * rng.normal(size=5))
        low, high = log_log_slope(x, y, 0.9).interval
        covered += low <= -1.5 <= high
    assert consistent_with_level(covered, 4000, 0.9)


def test_slope_errors():
    for x, y in (([1.0, 0.0], [1.0, 1.0]), ([1.0, 2.0], [1.0, math.inf])):
        with pytest.raises(ValueError, match="positive and finite"):
            log_log_slope(x, y)
    with pytest.raises(ValueError, match="length"):
        log_log_slope([1.0, 2.0, 3.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="two different"):
        log_log_slope([2.0, 2.0], [1.0, 2.0])


def test_paired_difference_matches_scipy():
    rng = np.random.default_rng(6)
    x, y = rng.normal(1, 1, size=23), rng.normal(size=23)
    result = paired_difference(x, y, 0.98)
    test = stats.ttest_rel(x, y)
    expected = test.confidence_interval(0.98)
    assert result.mean == pytest.approx((x - y).mean())
    assert result.stderr == pytest.approx(stats.sem(x - y))
    assert result.interval == pytest.approx((expected.low, expected.high), rel=1e-10)


def test_paired_difference_errors():
    with pytest.raises(ValueError, match="length"):
        paired_difference([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="finite"):
        paired_difference([1.0, math.inf], [1.0, 2.0])
    with pytest.raises(ValueError, match="at least 2"):
        paired_difference([1.0], [1.0])
