"""Counts against whole-number arithmetic and a walk through the algorithm, warnings at edges."""

import dataclasses
import decimal
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.zeroth import theory
from modicum.zeroth.plan import count, integer_root, minimum_budget, plan

QUICK = settings(derandomize=True, max_examples=300, deadline=None)
UNIT = {"noise": 1.0, "strong_convexity": 1.0, "hessian_lipschitz": 1.0}
BUDGETS = st.one_of(st.integers(13, 10**12), st.integers(13, 10**5))


def walk(d, T):
    """Evaluations of the algorithm, one by one in loops over its points."""
    counts = count(d, T)
    total = 0
    for _ in range(counts.bootstrap_rounds):
        for _ in range(d):
            total += 2 * counts.n_m
        total += counts.n_H
        for k in range(d):
            total += 2 * counts.n_H + 4 * k * counts.n_H
    total += counts.n_H_final
    for k in range(d):
        total += 2 * counts.n_H_final + 4 * k * counts.n_H_final
    return total + 2 * counts.n_g


@QUICK
@given(st.integers(0, 10**120), st.integers(1, 12))
def test_integer_root(number, degree):
    root = integer_root(number, degree)
    assert root**degree <= number < (root + 1) ** degree


@pytest.mark.parametrize("degree", [2, 9, 10])
def test_integer_root_beside_perfect_powers(degree):
    for root in (1, 2, 7, 10**3, 10**13 + 1):
        power = root**degree
        assert [integer_root(power + offset, degree) for offset in (-1, 0, 1)] == [
            root - 1,
            root,
            root,
        ]


@pytest.mark.parametrize("rounds", range(2, 16))
def test_rounds_beside_tenth_powers(rounds):
    T = rounds**10
    assert T <= 10**12
    assert [count(1, T + offset).bootstrap_rounds for offset in (-1, 0, 1)] == [
        rounds - 1,
        rounds,
        rounds,
    ]
    # T^0.9 is whole here, and the floor of it over 10 d is taken of exactly that.
    for d in (1, 2, 3):
        if minimum_budget(d) <= T:
            assert count(d, T).n_m == rounds**9 // (10 * d)
            assert count(d, T).n_H == rounds**9 // (10 * d * d)


@QUICK
@given(BUDGETS, st.integers(1, 40))
def test_floors_are_exact(T, d):
    T = max(T, minimum_budget(d))
    counts = count(d, T)
    assert counts.bootstrap_rounds**10 <= T < (counts.bootstrap_rounds + 1) ** 10
    for found, divisor in ((counts.n_m, 10 * d), (counts.n_H, 10 * d * d)):
        # n <= T^0.9 / divisor, in whole numbers.
        assert (found * divisor) ** 10 <= T**9 < ((found + 1) * divisor) ** 10
    assert counts.n_g == T // 10 == T // round(1 / theory.FINAL_SHARE)
    assert counts.n_H_final == T // (10 * d * d)


@pytest.mark.parametrize("T", [815659990324, 451164549674, 245307265801])
def test_floors_where_floats_fail(T):
    # T^0.9 / 10 is so near a whole number that its float rounds to the other side.
    with decimal.localcontext(prec=60):
        exact = int(decimal.Decimal(T) ** decimal.Decimal("0.9") / 10)
    assert math.floor(T**0.9 / 10 + 1e-9) != exact
    assert count(1, T).n_m == exact


@QUICK
@given(BUDGETS, st.integers(1, 30))
def test_evaluations_never_exceed_the_budget(T, d):
    T = max(T, minimum_budget(d))
    assert count(d, T).evaluations <= T
    assert count(d, T).evaluations <= 0.8 * T + 0.2 * T / d**2


@pytest.mark.parametrize(("d", "T"), [(1, 13), (1, 10**6), (2, 500), (5, 12345), (10, 10**7)])
def test_evaluations_are_those_of_a_walk(d, T):
    assert count(d, T).evaluations == walk(d, T)


def test_share_of_the_budget_that_is_used():
    for d in (2, 5, 10):
        for T in (10**4, 10**5, 10**6, 10**7):
            assert 0.6 < count(d, T).evaluations / T <= 0.85


@pytest.mark.parametrize("d", [1, 2, 3, 10, 20, 57, 1000])
def test_minimum_budget(d):
    least = minimum_budget(d)
    assert least == pytest.approx((10 * d * d) ** (10 / 9), abs=1.01, rel=1e-9)
    assert count(d, least).n_H == 1
    assert (least - 1) ** 9 < (10 * d * d) ** 10 <= least**9
    with pytest.raises(ValueError, match=f"{d} dimensions needs a budget of at least {least}, "):
        count(d, least - 1)


def test_minimum_budgets_known():
    assert [minimum_budget(d) for d in (1, 10, 20)] == [13, 2155, 10053]
    # 10 d² = 1000³: the power is whole.
    assert minimum_budget(10_000) == math.ceil((10**9) ** (10 / 9) - 0.5) == 10**10


def test_numbers_of_a_plan():
    found = plan(10, 10**6, **UNIT | {"noise": 0.5}, distance=1.0)
    assert (found.bootstrap_rounds, found.n_m, found.n_H) == (3, 2511, 251)
    assert (found.n_g, found.n_H_final) == (100_000, 1000)
    assert found.radii.bootstrap == pytest.approx((8 * 0.25 / 2511) ** (1 / 6))
    assert found.radii.hessian == pytest.approx((144 * 0.25 / 251) ** (1 / 6))
    assert found.radii.gradient == pytest.approx((1000 * 0.25 / 1e5) ** (1 / 6))
    assert found.radii.hessian_final == pytest.approx((144 * 0.25 / 1000) ** (1 / 6))
    assert found.trust_radius == 1
    constants = UNIT | {"noise": 0.5, "dimension": 10}
    assert found.predicted_regret == theory.predicted_regret(**constants, pairs=100_000)
    assert found.upper_bound == theory.upper_bound(**constants, budget=10**6)
    assert found.lower_bound == theory.lower_bound(**constants, budget=10**6)
    assert found.guaranteed_distance == pytest.approx(math.sqrt(2 / 5))
    for value in dataclasses.asdict(found).values():
        assert not isinstance(value, np.generic)


def test_prediction_over_the_measured_budgets():
    # (3/8) d / (2 n_g^{2/3}) at a least eigenvalue of 2, for 1e7 evaluations.
    for d, figure in ((2, 3.75e-5), (5, 9.38e-5), (10, 1.88e-4)):
        total = plan(d, 10**7, **UNIT | {"strong_convexity": 2.0}).predicted_regret.total
        assert total * 3 / (2 + d**2 / (d + 2) ** 2) == pytest.approx(figure, rel=3e-3)


@QUICK
@given(
    st.integers(1, 12),
    st.floats(1e-6, 10),
    st.floats(0.01, 10),
    st.floats(0.1, 10),
    st.floats(0.01, 10),
)
def test_budget_for_a_regret_is_the_least(d, eps, noise, M, rho):
    constants = {"noise": noise, "strong_convexity": M, "hessian_lipschitz": rho}
    found = plan(d, eps=eps, **constants)
    assert found.eps == eps
    assert found.predicted_regret.total <= eps
    assert plan(d, found.budget, **constants).predicted_regret == found.predicted_regret
    less = found.budget - 1
    if less >= minimum_budget(d):
        assert plan(d, less, **constants).predicted_regret.total > eps


def test_budget_for_a_tiny_regret():
    found = plan(3, eps=1e-20, **UNIT)
    assert 1e29 < found.budget < 1e32
    assert found.predicted_regret.total <= 1e-20
    with pytest.raises(ValueError, match="eps=1e-280 is too small"):
        plan(3, eps=1e-280, **UNIT)


def test_warnings_stand_exactly_where_conditions_fail():
    d = 4
    gentle = UNIT | {"hessian_lipschitz": 0.1}
    assert 64 * 0.1**4 * d**6 <= 27
    # d³ = 64 pairs are a tenth of 640 evaluations.
    assert "n_g=63 pairs, its guarantee needs d³=64 (a budget of 640)" in "".join(
        plan(d, 639, **gentle).warnings
    )
    assert not [text for text in plan(d, 640, **gentle).warnings if "pairs" in text]
    # 64 ρ⁴ d⁶ = 26.2, so 27 samples: a budget of 160 · 27.
    assert plan(d, 4319, **gentle).warnings == (
        "the final Hessian has n_H=26 samples per point, its guarantee needs 64 ρ⁴σ²d⁶/M⁶=26.21 "
        "(a budget of 4320)",
    )
    assert plan(d, 4320, **gentle).warnings == ()
    assert plan(d, 4320, **gentle).guaranteed_budget == 4320
    # 5 R²ρ²/M² + 1 = 2.8, and three rounds begin at 3^10.
    distance = 6.0
    early = plan(d, 3**10 - 1, **gentle, distance=distance)
    assert len(early.warnings) == 1
    assert "N=2 rounds" in early.warnings[0] and "needs 5R²ρ²/M²+1=2.8 (" in early.warnings[0]
    assert early.guaranteed_budget == 3**10
    assert plan(d, 3**10, **gentle, distance=distance).warnings == ()
    assert "(a budget of 5.905e+04)" in early.warnings[0]
    # 5 · 2² + 1 = 21 rounds are exactly enough.
    assert not any("first stage" in text for text in plan(1, 21**10, **UNIT, distance=2).warnings)
    assert plan(d, 3**10, **gentle).guaranteed_distance == pytest.approx(10 * math.sqrt(2 / 5))


@QUICK
@given(st.integers(1, 5), st.floats(0.2, 5), st.floats(0.05, 0.5), st.floats(0.1, 2))
def test_no_warning_from_the_guaranteed_budget_on(d, noise, rho, distance):
    constants = {"noise": noise, "strong_convexity": 1.0, "hessian_lipschitz": rho}
    least = int(plan(d, 10**6, **constants, distance=distance).guaranteed_budget)
    assert plan(d, least, **constants, distance=distance).warnings == ()
    if least > minimum_budget(d):
        assert plan(d, least - 1, **constants, distance=distance).warnings


def test_planning_itself_warns_nobody():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = plan(30, 20_000_000, **UNIT | {"hessian_lipschitz": 1e90}, distance=1e9)
    assert len(found.warnings) == 2
    assert found.guaranteed_budget == math.inf


def test_table():
    found = plan(20, eps=1e-3, **UNIT | {"noise": 0.5}, distance=1.0)
    text = found.table()
    assert str(found) == text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[:2] == ["regret to reach 0.001", f"budget T {found.budget:,}"]
    assert len({line.rindex("  ") for line in text.splitlines()[3:5]}) == 1
    for number in (found.n_m, found.n_H, found.n_g, found.n_H_final, found.evaluations):
        assert f" {number:,}" in text
    for number in (*found.radii, found.upper_bound, found.lower_bound):
        assert f"{number:.4g}" in text
    assert [line for line in text.splitlines() if line.startswith("warning: ")] == [
        f"warning: {sentence}" for sentence in found.warnings
    ]
    assert len(found.warnings) == 2
    assert "regret to reach" not in plan(2, 10**4, **UNIT).table()


def test_whole_numbers_of_any_type():
    assert plan(2, 1e5, **UNIT) == plan(np.int64(2), np.int32(100_000), **UNIT)
    with pytest.raises(TypeError, match=r"budget must be a whole number, got 1000\.5"):
        plan(2, 1000.5, **UNIT)
    with pytest.raises(TypeError, match="dimension must be a whole number, got '3'"):
        plan("3", 1000, **UNIT)


@pytest.mark.parametrize("name", ["noise", "strong_convexity", "hessian_lipschitz", "distance"])
@pytest.mark.parametrize("wrong", [0.0, -2.0, math.nan, math.inf])
def test_constants_must_be_positive(name, wrong):
    with pytest.raises(ValueError, match=f"{name} must be positive and finite, got {wrong}"):
        plan(2, 10**4, **UNIT | {name: wrong})


def test_other_wrong_arguments():
    with pytest.raises(ValueError, match="eps must be positive and finite, got -1"):
        plan(2, eps=-1, **UNIT)
    for arguments in ({}, {"budget": 1000, "eps": 0.1}):
        with pytest.raises(ValueError, match="give either budget or eps"):
            plan(2, **arguments, **UNIT)
    with pytest.raises(ValueError, match="dimension must be at least 1, got 0"):
        plan(0, 1000, **UNIT)
    with pytest.raises(ValueError, match=r"at least 2155, .*; got 2000"):
        plan(10, 2000, **UNIT)
