import numpy as np
import pytest

from modicum.core.device import numpy_generator
from modicum.core.experiment import Experiment, RunContext
from modicum.zeroth.experiments import adaptive_rate as experiment
from modicum.zeroth.experiments.adaptive_rate import Runs
from modicum.zeroth.methods.adaptive import Adaptive
from modicum.zeroth.problems import skew


@pytest.fixture
def context(tmp_path):
    return RunContext(
        Experiment("adaptive_rate", "modicum-zeroth", "title", "summary", experiment.run), tmp_path
    )


def test_a_scaled_down_run_reports_what_its_table_says(context, monkeypatch):
    monkeypatch.setattr(experiment, "QUICK_BUDGETS", (1000, 3000, 9000))
    monkeypatch.setattr(experiment, "QUICK_SEEDS", 3)
    monkeypatch.setattr(experiment, "LEAST_BUDGET", 3000)
    result = experiment.run(context)
    claims = {claim.name: claim for claim in result.claims}
    (table,) = result.tables
    cells = {tuple(row[:3]): row[3:] for row in table.rows}
    assert list(cells) == [
        (d, known, T) for d in (5, 10) for known in ("unknown", "known") for T in (1000, 3000, 9000)
    ]
    for (d, known, T), row in cells.items():
        seeds, mean, low, high, median, largest, _, formula, share = row
        # Of three seeds, the mean of the worst three times may be above it by a rounding error.
        assert seeds == 3 and low <= mean <= high <= largest * (1 + 1e-12) and median <= largest
        assert formula == pytest.approx(3 / 8 * d / (2 * (T / 4) ** (2 / 3)))
        assert share == pytest.approx(mean / formula)
        # A run by hand from the same streams.
        if T == 1000:
            regrets = []
            for index in range(3):
                rng = numpy_generator(0, "adaptive_rate", d, T, index)
                problem = skew(d, rotation=True, rng=rng)
                told = {"noise": 1, "strong_convexity": 1, "hessian_lipschitz": 1}
                method = Adaptive(problem.start, T, rng=rng, **told if known == "known" else {})
                regrets.append(problem.regret(method.run(problem.noisy(1.0, rng)).x))
            assert np.mean(regrets) == pytest.approx(mean)
            assert max(regrets) == pytest.approx(largest)
    for d in (5, 10):
        for known in ("unknown", "known"):
            means = [cells[d, known, T][1] for T in (3000, 9000)]
            claim = claims[f"slope_{known}_{d}"]
            assert claim.measured == pytest.approx(np.log(means[1] / means[0]) / np.log(3))
            assert claim.interval[0] <= claim.measured <= claim.interval[1]
    known = [row[8] for key, row in cells.items() if key[1] == "known" and key[2] >= 3000]
    assert claims["formula"].measured == pytest.approx(max(known))
    costs = [cells[d, "unknown", T][1] / cells[d, "known", T][1] for d, _, T in cells]
    assert claims["cost_of_not_knowing"].measured == pytest.approx(max(costs))
    spreads = [row[5] / row[4] for key, row in cells.items() if key[1] == "unknown"]
    assert claims["no_bad_seed"].measured == pytest.approx(max(spreads))
    ratios = [row[6] / row[1] for row in cells.values()]
    worst = max(ratios, key=lambda ratio: abs(np.log(ratio)))
    assert claims["predicted_regret"].measured == pytest.approx(worst)


def test_an_interrupted_run_goes_on(context, monkeypatch):
    whole = experiment.measure(context, (200, 300), 2, (5,))
    monkeypatch.setattr(experiment, "one_run", None)  # everything is there already
    again = experiment.measure(context, (200, 300), 2, (5,))
    for key, cells in whole.items():
        for budget, runs in cells.items():
            np.testing.assert_array_equal(runs.regret, again[key][budget].regret)
            np.testing.assert_array_equal(runs.predicted, again[key][budget].predicted)


def made_up(exponent=-2 / 3, unknown_exponent=-2 / 3, level=1.0, cost=2.0, worst=1.1, predicted=1):
    found = {}
    for d in experiment.DIMENSIONS:
        for known in (False, True):
            found[d, known] = {}
            for T in experiment.BUDGETS:
                power = exponent if known else unknown_exponent
                mean = level * experiment.formula(d, 10**6) * (T / 10**6) ** power
                spread = np.array([0.9, 0.95, 1.0, 1.05, 1.0 if known else worst])
                regret = mean * spread * (1 if known else cost)
                found[d, known][T] = Runs(regret, predicted * regret)
    return found


def failing(quick=False, **changes):
    found = made_up(**changes)
    claims = experiment.claims(found, experiment.slopes(found, 0), 0, quick)
    assert len({claim.name for claim in claims}) == len(claims) == 8
    return {claim.name for claim in claims if not claim.holds}


def test_claims_fail_where_they_must():
    assert not failing() and not failing(quick=True)
    known = {"slope_known_5", "slope_known_10"}
    assert not known & failing(exponent=-0.60) and not known & failing(exponent=-0.74)
    assert failing(exponent=-0.58) >= known
    assert failing(exponent=-0.76, quick=True) >= known
    assert failing(unknown_exponent=-0.49, cost=1.0) == {"slope_unknown_5", "slope_unknown_10"}
    assert failing(unknown_exponent=-0.9, cost=0.1) == set()
    assert failing(level=1.7) == {"formula"}
    assert failing(cost=3.2) == {"cost_of_not_knowing"}
    assert "no_bad_seed" in failing(worst=10.1)
    assert "no_bad_seed" not in failing(worst=9.9)
    assert failing(predicted=3.1) == failing(predicted=0.32) == {"predicted_regret"}
    assert failing(predicted=2.9) == failing(predicted=0.34) == set()
