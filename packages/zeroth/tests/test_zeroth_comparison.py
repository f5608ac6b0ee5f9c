import numpy as np
import pytest

from modicum.zeroth import comparison, problems


def test_a_run_is_counted_and_repeats():
    setting = {"dimension": 3, "sigma": 0.1, "budget": 501, "seed": 4}
    row = comparison.measure("skew", "zosgd", **setting)
    again = comparison.measure("skew", "zosgd", **setting)
    assert row.regret == again.regret and 0 < row.regret < 0.1
    assert row.evaluations in (500, 501)
    other = comparison.measure("skew", "zosgd", **{**setting, "seed": 5})
    assert other.regret != row.regret


def test_a_method_of_ones_own_gets_the_noisy_function():
    def mean_of_start(found, budget, seed):
        values = found.noisy(seed)(np.tile(found.problem.start, (budget, 1)))
        assert values.std() == pytest.approx(2.0, rel=0.05)
        return found.problem.optimum, 7.0

    row = comparison.measure(
        "quadratic",
        "mine",
        dimension=2,
        sigma=2.0,
        budget=10_000,
        seed=0,
        methods={"mine": mean_of_start},
    )
    assert (row.regret, row.predicted_regret, row.evaluations) == (0.0, 7.0, 10_000)


@pytest.mark.parametrize("name", comparison.PROBLEMS)
def test_every_problem_has_a_start_above_its_minimum(name):
    found = comparison.case(name, 4, 1.0, 10_000, seed=3)
    start = found.problem.start
    assert found.problem.regret(start) > 0
    assert found.noisy(0)(np.tile(start, (5, 1))).shape == (5,)
    assert np.array_equal(found.noisy(1)(start[None]), found.noisy(1)(start[None]))
    other = comparison.case(name, 4, 1.0, 10_000, seed=5).problem
    assert not np.array_equal(other.optimum, found.problem.optimum)


def test_mini_batches_have_the_noise_that_they_say():
    found = comparison.case("logreg", 3, 1.0, 100, seed=1)
    optimum = found.problem.optimum
    values = found.noisy(0)(np.tile(optimum, (40_000, 1)))
    # Standard error of a standard deviation: 0.5 % at Gaussian kurtosis; 5 % is beyond chance.
    assert values.std() == pytest.approx(found.noise, rel=0.05)


def test_largest_curvature_of_a_parabola_and_of_skew():
    parabola = problems.quadratic(5, condition=30.0, rotation=True)
    assert comparison.largest_curvature(parabola) == pytest.approx(30.0)
    skewed = problems.skew(3, strong_convexity=1.0, rise=2.0)
    assert 2.0 < comparison.largest_curvature(skewed) < 3.0


def test_names_are_checked():
    with pytest.raises(ValueError, match=r"problem.*'skeww'.*skew"):
        comparison.case("skeww", 2, 1.0, 10)
    with pytest.raises(ValueError, match=r"method.*'spasa'.*spsa"):
        comparison.measure("skew", "spasa", dimension=2, sigma=1, budget=10, seed=0)
