"""Merging and calibration against definitions, exact integrals and an independent package."""

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from online_fdr.e_values import e_bh
from scipy.integrate import quad

from modicum.core.stats import (
    POWER_GRID,
    EProcess,
    calibrator_grid,
    e_benjamini_hochberg,
    e_to_p,
    mean_e_value,
    mixture_calibrator,
    power_calibrator,
    product_e_value,
    spending_levels,
)

log_values = st.one_of(st.floats(-20, 20), st.just(-math.inf))


@settings(deadline=None, max_examples=60)
@given(st.lists(log_values, min_size=1, max_size=8), st.data())
def test_mean_matches_plain_arithmetic(log_e, data):
    weights = np.array(
        data.draw(st.lists(st.floats(0.01, 5), min_size=len(log_e), max_size=len(log_e)))
    )
    e = np.exp(log_e)
    assert math.exp(mean_e_value(log_e)) == pytest.approx(e.mean(), rel=1e-12)
    weighted = (e * weights).sum() / weights.sum()
    assert math.exp(mean_e_value(log_e, weights)) == pytest.approx(weighted, rel=1e-12)
    assert math.exp(product_e_value(log_e)) == pytest.approx(e.prod(), rel=1e-9, abs=1e-300)


def test_mean_and_product_along_an_axis_and_far_out():
    log_e = np.array([[1e5, 1e5], [-1e5, -math.inf], [0.0, 3.0]])
    np.testing.assert_allclose(mean_e_value(log_e, axis=0), [1e5 - math.log(3)] * 2)
    np.testing.assert_allclose(mean_e_value(log_e)[0], 1e5)
    np.testing.assert_allclose(mean_e_value(log_e)[1], -1e5 - math.log(2))
    np.testing.assert_array_equal(product_e_value(log_e), [2e5, -math.inf, 3.0])
    np.testing.assert_array_equal(product_e_value(log_e, axis=0), [0.0, -math.inf])
    assert product_e_value([]) == 0.0


def test_mean_and_product_of_zero_and_infinite_e_values():
    assert mean_e_value([-math.inf, -math.inf]) == -math.inf
    assert mean_e_value([0.0, math.inf]) == math.inf
    assert mean_e_value([0.0, math.inf], [1.0, 0.0]) == 0.0
    assert product_e_value([math.inf, -math.inf, 2.0]) == -math.inf
    assert product_e_value([math.inf, 2.0]) == math.inf


@pytest.mark.parametrize("function", [mean_e_value, product_e_value, e_to_p])
def test_nan_is_refused(function):
    with pytest.raises(ValueError, match="NaN"):
        function([0.0, math.nan])


@pytest.mark.parametrize(
    "weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [1.0, math.inf], [1.0, math.nan]]
)
def test_wrong_weights_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        mean_e_value([0.0, 1.0], weights)
    with pytest.raises(ValueError, match="weights"):
        e_benjamini_hochberg([0.0, 1.0], 0.1, weights)


def test_empty_mean_is_refused():
    with pytest.raises(ValueError, match="empty"):
        mean_e_value([])


def test_e_to_p():
    np.testing.assert_allclose(
        e_to_p([-math.inf, -1.0, 0.0, math.log(20), math.inf]), [1, 1, 1, 0.05, 0]
    )


def brute_force_e_bh(weighted_e: np.ndarray, alpha: float) -> np.ndarray:
    """Largest rejection set R such that every member has e >= N / (alpha |R|)."""
    total = weighted_e.size
    for k in range(total, 0, -1):
        rejected = weighted_e >= total / (alpha * k)
        if rejected.sum() >= k:
            return rejected
    return np.zeros(total, dtype=bool)


def near_threshold(weighted_e: np.ndarray, alpha: float) -> bool:
    """Whether rounding of a logarithm could decide."""
    ranks = np.arange(1, weighted_e.size + 1)
    ratio = weighted_e[:, None] * alpha * ranks / weighted_e.size
    return bool(np.any(np.abs(ratio - 1) < 1e-9))


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.one_of(st.floats(-3, 9), st.just(-math.inf)), min_size=1, max_size=25),
    st.floats(0.01, 0.9),
    st.data(),
)
def test_e_bh_matches_brute_force_and_independent_package(log_e, alpha, data):
    e = np.exp(log_e)
    weights = data.draw(st.lists(st.floats(0.1, 5), min_size=e.size, max_size=e.size))
    weighted_e = e * np.array(weights) / np.mean(weights)
    assume(not near_threshold(e, alpha) and not near_threshold(weighted_e, alpha))
    result = e_benjamini_hochberg(log_e, alpha)
    np.testing.assert_array_equal(result.rejected, brute_force_e_bh(e, alpha))
    np.testing.assert_array_equal(result.rejected, e_bh(e.tolist(), alpha))
    assert result.num_rejected == result.rejected.sum()
    if result.num_rejected:
        assert result.threshold == pytest.approx(e.size / (alpha * result.num_rejected))
        assert e[result.rejected].min() >= result.threshold
        assert not np.any(e[~result.rejected] >= result.threshold)
    else:
        assert result.threshold == math.inf
    weighted = e_benjamini_hochberg(log_e, alpha, weights)
    np.testing.assert_array_equal(weighted.rejected, brute_force_e_bh(weighted_e, alpha))


@pytest.mark.parametrize("alpha", [0.01, 0.02, 0.05, 0.1])
def test_e_bh_rejects_at_exactly_the_threshold(alpha):
    assert e_benjamini_hochberg([np.log(1 / alpha)], alpha).num_rejected == 1
    result = e_benjamini_hochberg(np.log([2 / (alpha * 2), 2 / (alpha * 2)]), alpha)
    assert result.rejected.all()
    assert result.threshold == pytest.approx(1 / alpha)


def test_e_bh_false_discovery_rate_is_exact_for_the_worst_common_shock():
    # All e-values equal 1/q with probability q and 0 otherwise: false discovery rate q when
    # 1/q >= 1/alpha, which is the bound, attained at q = alpha.
    alpha = 0.1
    rates = []
    for q in (0.05, alpha, 0.1001, 0.3):
        rejected = e_benjamini_hochberg(np.full(6, math.log(1 / q)), alpha).num_rejected > 0
        rates.append(q * rejected)
    assert rates == [0.05, alpha, 0.0, 0.0]


def test_e_bh_edges():
    assert e_benjamini_hochberg([], 0.1).num_rejected == 0
    infinite = e_benjamini_hochberg([math.inf, 0.0], 0.1)
    assert infinite.rejected.tolist() == [True, False]
    never = e_benjamini_hochberg([math.inf, 9.0], 0.1, [0.0, 1.0])
    assert never.rejected.tolist() == [False, True]
    with pytest.raises(ValueError, match="shape"):
        e_benjamini_hochberg([[0.0]], 0.1)
    with pytest.raises(ValueError, match="NaN"):
        e_benjamini_hochberg([math.nan], 0.1)
    for alpha in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="alpha"):
            e_benjamini_hochberg([0.0], alpha)


@pytest.mark.parametrize("kappa", [0.2, 0.5, 0.9])
def test_power_calibrator_has_mean_one_under_a_uniform_p(kappa):
    # Substituting p = u^(1/kappa) removes the singularity at p = 0.
    mean, _ = quad(
        lambda u: (
            math.exp(power_calibrator(u ** (1 / kappa), kappa)) * u ** (1 / kappa - 1) / kappa
        ),
        1e-12,
        1,
    )
    assert mean == pytest.approx(1.0, abs=1e-8)


def test_power_calibrator_values_and_errors():
    np.testing.assert_allclose(power_calibrator([0.01, 1.0], 0.5), np.log([5.0, 0.5]), rtol=1e-12)
    assert power_calibrator(0.0, 0.5) == math.inf
    for kappa in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="kappa"):
            power_calibrator(0.5, kappa)
    for p in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="p-values"):
            power_calibrator(p, 0.5)
        with pytest.raises(ValueError, match="p-values"):
            mixture_calibrator(p)


def exact_mixture(p: float) -> float:
    """The closed form with 60 digits."""
    with localcontext() as context:
        context.prec = 60
        x = -Decimal(p).ln()
        return float(((x.exp() - 1 - x) / x**2).ln())


@settings(deadline=None, max_examples=150)
@given(
    st.one_of(
        st.floats(1e-300, 1, exclude_max=True),
        st.floats(-690, -1e-12).map(math.exp),
        st.floats(1e-15, 1e-3).map(lambda gap: 1 - gap),
    )
)
def test_mixture_calibrator_matches_sixty_digit_arithmetic(p):
    assume(0 < p < 1)
    assert mixture_calibrator(p) == pytest.approx(exact_mixture(p), rel=1e-13, abs=1e-13)


@pytest.mark.parametrize("p", [1e-6, 0.003, 0.2, 0.3678, 0.37, 0.8, 0.999])
def test_mixture_calibrator_is_the_average_of_the_power_calibrators(p):
    average, _ = quad(lambda kappa: math.exp(power_calibrator(p, kappa)), 0, 1)
    # quad never touches the open interval's ends.
    assert math.exp(mixture_calibrator(p)) == pytest.approx(average, rel=1e-9)


def test_mixture_calibrator_ends_and_monotone():
    assert mixture_calibrator(0.0) == math.inf
    assert mixture_calibrator(1.0) == pytest.approx(-math.log(2), abs=1e-15)
    p = np.exp(-np.linspace(1e-9, 600, 20_001))
    assert np.all(np.diff(mixture_calibrator(p)) >= -1e-12)
    mean, _ = quad(lambda x: math.exp(mixture_calibrator(math.exp(-x)) - x), 0, 700, limit=500)
    # The integrand falls like 1/x^2: beyond x = 700 there is 1/700 left.
    assert mean == pytest.approx(1 - 1 / 700, abs=1e-6)


def test_calibrator_grid_feeds_an_e_process():
    p = np.array([0.5, 0.01, 0.3])
    grid = calibrator_grid(p)
    assert grid.shape == (3, len(POWER_GRID))
    np.testing.assert_array_equal(grid[1], power_calibrator(0.01, np.array(POWER_GRID)))
    process = EProcess(num_components=len(POWER_GRID))
    process.update_many(grid)
    expected = np.mean(np.prod(np.exp(grid), axis=0))
    assert process.e_value == pytest.approx(expected, rel=1e-12)


def test_spending_levels_sum_to_alpha():
    looks = np.arange(1, 10_001)
    levels = spending_levels(0.02, looks)
    assert levels[0] == 0.01
    # The sum telescopes to alpha (1 - 1/(n + 1)).
    assert levels.sum() == pytest.approx(0.02 * (1 - 1 / 10_001), rel=1e-12)
    for alpha, k in ((0.0, 1), (1.0, 1), (0.1, 0), (0.1, math.nan)):
        with pytest.raises(ValueError):
            spending_levels(alpha, k)
