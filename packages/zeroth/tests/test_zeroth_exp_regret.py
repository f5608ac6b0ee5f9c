import numpy as np
import pytest

from modicum.zeroth.experiments import _regret


@pytest.mark.parametrize(
    ("interval", "decided"),
    [((0.5, 0.9), True), ((0.5, 1.0), True), ((0.5, 1.1), None), ((1.1, 2.0), False)],
)
def test_a_quick_run_decides_only_with_its_whole_interval(interval, decided):
    assert _regret.verdict(0.8, interval, 0.0, 1.0, quick=True) is decided
    # A full run has enough seeds to decide by its value.
    assert _regret.verdict(0.8, interval, 0.0, 1.0, quick=False) is True
    assert _regret.verdict(1.2, interval, 0.0, 1.0, quick=False) is False


def test_exponent_of_exact_power_and_coverage_of_its_interval():
    rng = np.random.default_rng(0)
    exact = _regret.exponent([1, 10, 100], [np.full(5, 3.0 * x**-0.5) for x in (1, 10, 100)], rng)
    assert exact.slope == pytest.approx(-0.5) and exact.interval == pytest.approx((-0.5, -0.5))
    hits = 0
    for _ in range(100):
        values = [x**-0.5 * rng.lognormal(0, 0.5, 30) for x in (1, 10, 100)]
        low, high = _regret.exponent([1, 10, 100], values, rng).interval
        hits += low <= -0.5 <= high
    # Nominal .95, .92 for the percentile bootstrap of 30; below 75 of 100 has a chance below 1e-7.
    assert hits >= 75


def test_ratio_is_paired():
    below = np.array([1.0, 10.0, 100.0])
    assert _regret.ratio_interval(2 * below, below, np.random.default_rng(0)) == (2.0, 2.0)
