import math

import numpy as np
import pytest

from modicum.core.experiment import Experiment, RunContext
from modicum.zeroth.experiments import two_stage_rate as experiment
from modicum.zeroth.experiments.two_stage_rate import Runs
from modicum.zeroth.problems import skew


@pytest.fixture
def context(tmp_path):
    return RunContext(
        Experiment("two_stage_rate", "modicum-zeroth", "title", "summary", experiment.run), tmp_path
    )


def test_a_scaled_down_run_reports_what_its_table_says(context, monkeypatch):
    monkeypatch.setattr(experiment, "QUICK_BUDGETS", (3000, 10_000, 30_000))
    monkeypatch.setattr(experiment, "QUICK_SEEDS", 2)
    monkeypatch.setattr(experiment, "FORMULA_BUDGET", 10_000)
    result = experiment.run(context)
    claims = {claim.name: claim for claim in result.claims}
    (table,) = result.tables
    assert [row[:2] for row in table.rows] == [
        [d, T] for d in (2, 5, 10) for T in (3000, 10_000, 30_000)
    ]
    for d in (5, 10):
        # Only from 10000 on.
        x, y = np.log(
            [(row[1], row[4]) for row in table.rows if row[0] == d and row[1] >= 10_000]
        ).T
        assert claims[f"slope_{d}"].measured == pytest.approx(np.polyfit(x, y, 1)[0])
        low, high = claims[f"slope_{d}"].interval
        assert low <= claims[f"slope_{d}"].measured <= high
        inside = -2 / 3 - 0.1 <= low and high <= -2 / 3 + 0.1
        outside = high < -2 / 3 - 0.1 or low > -2 / 3 + 0.1
        assert claims[f"slope_{d}"].holds == (True if inside else False if outside else None)
    for d, T, evaluations, seeds, mean, low, high, median, _, formula, share in table.rows:
        assert evaluations <= T and seeds == 2
        assert low <= mean <= high and median <= high
        assert formula == pytest.approx(3 / 8 * d / (2 * (T // 10) ** (2 / 3)))
        assert share == pytest.approx(mean / formula)
    shares = [row[10] for row in table.rows if row[1] >= 10_000]
    worst = max(shares, key=lambda share: abs(math.log(share)))
    assert claims["formula"].measured == pytest.approx(worst)
    last = table.rows[-1]
    assert claims["last_step_pays"].measured == pytest.approx(last[8] / last[4])
    assert claims["last_step_pays"].holds is None
    first, final = np.transpose(
        [experiment.one_run(10, 30_000, 0, index, rotation=False)[1::-1] for index in range(2)]
    )
    straight = claims["last_step_pays_straight"]
    assert straight.measured == pytest.approx(first.mean() / final.mean())
    assert straight.holds is None


def test_a_run_is_the_same_for_the_same_seed():
    assert experiment.one_run(3, 2000, 5, 1) == experiment.one_run(3, 2000, 5, 1)
    assert experiment.one_run(3, 2000, 5, 1) != experiment.one_run(3, 2000, 5, 2)
    assert experiment.one_run(3, 2000, 5, 1) != experiment.one_run(3, 2000, 6, 1)


def by_hand(d, T, rng):
    """The whole algorithm on the same function; means of repetitions drawn as one value."""
    problem = skew(d, rotation=True, rng=rng)

    def mean(x, n):
        return problem.fun(x) + rng.standard_normal(len(x)) / math.sqrt(n)

    def hessian(x, n):
        r, e = (144 / n) ** (1 / 6), np.eye(d)
        center = mean(x[None], n)[0]
        found = np.diag((mean(x + r * e, n) + mean(x - r * e, n) - 2 * center) / r**2)
        for i in range(d):
            for j in range(i):
                signs = np.array([[1, 1], [-1, -1], [1, -1], [-1, 1]])
                points = x + r * (signs[:, :1] * e[i] + signs[:, 1:] * e[j])
                found[i, j] = found[j, i] = mean(points, n) @ [1, 1, -1, -1] / (4 * r**2)
        eigenvalues, vectors = np.linalg.eigh(found)
        return np.maximum(eigenvalues, 1), vectors

    x = np.zeros(d)
    for _ in range(int(T**0.1 + 1e-9)):
        n_m, n_H = int(T**0.9 / (10 * d)), int(T**0.9 / (10 * d**2))
        r = (8 / n_m) ** (1 / 6)
        gradient = (mean(x + r * np.eye(d), n_m) - mean(x - r * np.eye(d), n_m)) / (2 * r)
        eigenvalues, vectors = hessian(x, n_H)
        along = vectors.T @ gradient
        floor = 0.0
        while np.linalg.norm(along / np.maximum(eigenvalues, floor)) > 1:
            floor += 0.01
        x = x - vectors @ (along / np.maximum(eigenvalues, floor))
    eigenvalues, vectors = hessian(x, T // (10 * d**2))
    n = T // 10
    u = rng.standard_normal((n, d))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    root = vectors @ np.diag(eigenvalues**-0.5) @ vectors.T
    shape = (d**3 / n) ** (1 / 6) * root * math.sqrt(eigenvalues[0])
    difference = mean(x + u @ shape, 1) - mean(x - u @ shape, 1)
    gradient = np.linalg.solve(shape, d / 2 * difference @ u / n)
    step = -vectors @ ((vectors.T @ gradient) / eigenvalues)
    return problem.regret(x + step * min(1, 1 / np.linalg.norm(step))), problem.regret(x)


def test_regrets_are_those_of_an_independent_computation():
    # 150 runs each. The variance of the logarithm of a regret with 3 squares is about 0.9, so the
    # difference of two means of 150 has a standard deviation of 0.11; 0.6 is 5.4 of them.
    d, T, runs = 3, 10_000, 150
    rng = np.random.default_rng(0)
    own = np.log([experiment.one_run(d, T, 0, index)[:2] for index in range(runs)])
    other = np.log([by_hand(d, T, rng) for _ in range(runs)])
    np.testing.assert_allclose(own.mean(0), other.mean(0), rtol=0, atol=0.6)


def made_up(exponent, gain=4.0, level=1.0, seeds=6):
    spread = np.linspace(0.9, 1.1, seeds)
    return {
        d: {
            T: Runs(
                level * experiment.formula(d, 10**6) * (T / 10**6) ** exponent * spread,
                level * gain * experiment.formula(d, 10**6) * (T / 10**6) ** exponent * spread,
                T,
            )
            for T in experiment.BUDGETS
        }
        for d in experiment.DIMENSIONS
    }


def verdicts(found, quick=False, straight_gain=4.0):
    (final,) = [made_up(-2 / 3)[10][max(experiment.BUDGETS)].final]
    straight = Runs(final, straight_gain * final, 1)
    return {claim.name: claim.holds for claim in experiment.claims(found, straight, 0, quick)}


def test_claims_fail_where_they_must():
    names = ("slope_5", "slope_10", "formula", "last_step_pays", "last_step_pays_straight")
    right = dict.fromkeys(names, True)
    assert verdicts(made_up(-2 / 3)) == right
    assert verdicts(made_up(-0.58)) == right
    slow = verdicts(made_up(-0.5))
    assert not slow["slope_5"] and not slow["slope_10"] and slow["last_step_pays"]
    assert not verdicts(made_up(-0.8))["slope_5"]
    assert verdicts(made_up(-0.5), quick=True)["slope_10"] is False
    assert not verdicts(made_up(-2 / 3, level=2.1))["formula"]
    assert not verdicts(made_up(-2 / 3, level=0.39))["formula"]
    # A quick run decides where its whole interval, a few per cent wide here, is on one side.
    assert verdicts(made_up(-2 / 3, level=0.39), quick=True)["formula"] is None
    assert verdicts(made_up(-2 / 3), straight_gain=6.0)["last_step_pays_straight"] is False
    assert verdicts(made_up(-2 / 3, level=0.35), quick=True)["formula"] is False
    assert not verdicts(made_up(-2 / 3, gain=2.9))["last_step_pays"]
    assert not verdicts(made_up(-2 / 3, gain=5.1))["last_step_pays"]
