import numpy as np
import pytest

from modicum.core.experiment import Experiment, RunContext
from modicum.zeroth.experiments import dimension as experiment
from modicum.zeroth.problems import skew


@pytest.fixture
def context(tmp_path):
    return RunContext(
        Experiment("dimension", "modicum-zeroth", "title", "summary", experiment.run), tmp_path
    )


def test_scaled_down_run_reports_what_its_tables_say(context, monkeypatch):
    monkeypatch.setattr(experiment, "QUICK_PAIRS", 1_000)
    monkeypatch.setattr(experiment, "QUICK_COORDINATES", 128)
    result = experiment.run(context)
    claims = {claim.name: claim for claim in result.claims}
    (table,) = result.tables
    for name, claim in (("sphere", "sphere_slope"), ("coordinates", "coordinate_slope")):
        rows = [row for row in table.rows if row[0] == name]
        x, y = np.log([row[1] for row in rows]), np.log([row[3] for row in rows])
        assert claims[claim].measured == pytest.approx(np.polyfit(x, y, 1)[0])
        low, high = claims[claim].interval
        assert low < claims[claim].measured < high
        assert [row[2] for row in rows] == [32, 16, 8, 4, 2]
    last = {row[0]: row[3] for row in table.rows if row[1] == 64}
    assert claims["ratio"].measured == pytest.approx(last["coordinates"] / last["sphere"])
    shares = [row[7] for row in table.rows if row[0] == "sphere"]
    assert np.log(claims["formula"].measured) == pytest.approx(np.mean(np.log(shares)))
    again = [experiment.measure(context, 200, 12, (4, 6)) for _ in range(2)]
    for name in experiment.METHODS:
        assert again[0][name][6].tolist() == again[1][name][6].tolist()


def by_hand(problem, pairs, coordinates, rng):
    """Both estimators in plain NumPy, at radii written out."""
    d, center = problem.dimension, problem.optimum
    if coordinates:
        samples = pairs // d
        radius = (9 / samples) ** (1 / 6)
        moves = radius * np.repeat(np.eye(d), samples, 0)
    else:
        radius = (d**3 / pairs) ** (1 / 6)
        moves = rng.standard_normal((pairs, d))
        moves *= radius / np.linalg.norm(moves, axis=1, keepdims=True)
    noise = rng.standard_normal((2, len(moves)))
    difference = problem.fun(center + moves) - problem.fun(center - moves) + noise[0] - noise[1]
    if coordinates:
        gradient = difference.reshape(d, samples).mean(1) / (2 * radius)
    else:
        gradient = (d / 2 * difference[:, None] * moves / radius).mean(0) / radius
    return gradient @ gradient / 4


@pytest.mark.parametrize("coordinates", [False, True])
def test_regrets_are_those_of_an_independent_computation(coordinates):
    problem = skew(6)
    measure = experiment.coordinate_regret if coordinates else experiment.sphere_regret
    formula = experiment.coordinate_formula if coordinates else experiment.sphere_formula
    rngs = np.random.default_rng(0).spawn(800)
    ours = np.array([measure(problem, 600, rng) for rng in rngs[:400]])
    theirs = np.array([by_hand(problem, 600, coordinates, rng) for rng in rngs[400:]])
    error = np.hypot(ours.std(), theirs.std()) / len(ours) ** 0.5
    # Six standard errors; the formula is for cubics, on which the bias is a little larger.
    assert abs(ours.mean() - theirs.mean()) < 6 * error
    assert ours.mean() < formula(6, 600) + 6 * error
    assert ours.mean() > 0.75 * formula(6, 600)


def test_formulas_are_the_written_out_ones():
    d, n = 7, 70_000
    r = (d**3 / n) ** (1 / 6)
    sphere = (r**4 * d / (4 * (d + 2) ** 2) + d**2 / (2 * n * r**2)) / 4
    assert experiment.sphere_formula(d, n) == pytest.approx(sphere)
    r = (9 * d / n) ** (1 / 6)
    coordinates = d * (r**4 / 36 + d / (2 * n * r**2)) / 4
    assert experiment.coordinate_formula(d, n) == pytest.approx(coordinates)
    # Figures of a run elsewhere, from the same formula.
    assert experiment.sphere_formula(16, 100_000) == pytest.approx(1.30e-3, rel=0.005)


def test_interval_of_the_slope_is_that_of_the_delta_method():
    rng = np.random.default_rng(0)
    samples = {d: d**1.3 * (1 + 0.1 * rng.standard_normal(400)) for d in (4, 8, 16, 32)}
    fit = experiment.slope(samples, 0)
    x = np.log(list(samples)) - np.mean(np.log(list(samples)))
    variance = [values.var() / values.mean() ** 2 / len(values) for values in samples.values()]
    error = np.sqrt(x**2 @ variance) / (x @ x)
    assert fit.slope == pytest.approx(1.3, abs=6 * error)
    assert fit.stderr == pytest.approx(error, rel=0.1)
    assert np.diff(fit.interval)[0] == pytest.approx(2 * 1.96 * error, rel=0.1)
    exact = experiment.slope({d: np.full(3, 5.0 * d**2) for d in (2, 4, 8)}, 0)
    assert (exact.slope, *exact.interval) == pytest.approx((2, 2, 2))
    assert np.exp(exact.intercept) == pytest.approx(5)


def test_claims_fail_where_the_numbers_do():
    def flat(factor, exponent):
        return {
            d: np.full(3, factor * experiment.sphere_formula(4, 1000) * (d / 4) ** exponent)
            for d in experiment.DIMENSIONS
        }

    good = experiment.claims({"sphere": flat(1, 1.0), "coordinates": flat(1, 1.7)}, 1000, 0)
    assert [claim.holds for claim in good] == [True, True, True, True]
    bad = experiment.claims({"sphere": flat(1.5, 1.3), "coordinates": flat(1, 1.4)}, 1000, 0)
    assert [claim.holds for claim in bad] == [False, False, False, False]
