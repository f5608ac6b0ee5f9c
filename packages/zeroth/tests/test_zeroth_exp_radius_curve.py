import numpy as np
import pytest

from modicum.core.experiment import Experiment, RunContext
from modicum.zeroth.experiments import radius_curve as experiment


@pytest.fixture
def context(tmp_path):
    return RunContext(
        Experiment("radius_curve", "modicum-zeroth", "title", "summary", experiment.run), tmp_path
    )


def exact(c, n, d=10):
    """The formula, written out for noise 1, Lipschitz constant 1 and curvature 2."""
    r = c * (d**3 / n) ** (1 / 6)
    return (r**4 * d / (4 * (d + 2) ** 2) + d**2 / (2 * n * r**2)) / 4


def test_scaled_down_run_follows_the_formula(context, monkeypatch):
    monkeypatch.setattr(experiment, "QUICK_PAIRS", 1_000)
    monkeypatch.setattr(experiment, "QUICK_SEEDS", 60)
    monkeypatch.setattr(experiment, "QUICK_SKEW_SEEDS", 10)
    result = experiment.run(context)
    (table,) = result.tables
    cubic = [row for row in table.rows if row[0] == "cubic"]
    assert [row[1] for row in cubic] == [0.25, 0.5, 1, 2, 4]
    for _, c, seeds, mean, low, high, formula, share in cubic:
        assert formula == pytest.approx(exact(c, 1_000))
        assert share == pytest.approx(mean / formula)
        assert low < mean < high
        # A multiple of chi-squared with 10 degrees of freedom, to which far out a bias is added and
        # a few percent of variance that the formula leaves out: six standard errors.
        assert abs(share - 1) < 6 * np.sqrt(2 / 10 / seeds) + 0.05
    claims = {claim.name: claim for claim in result.claims}
    worst = max(cubic, key=lambda row: abs(row[7] - 1))
    assert claims["formula"].measured == pytest.approx(worst[7])
    assert claims["formula"].interval == pytest.approx((worst[4] / worst[6], worst[5] / worst[6]))
    best = min(cubic, key=lambda row: row[3])
    assert claims["best_radius_cubic"].measured == best[1]


def test_regrets_are_those_of_an_independent_computation():
    n, c = 400, 2.0
    problem = experiment.problems()["cubic"]
    rngs = np.random.default_rng(0).spawn(600)
    ours = experiment.regrets(problem, c, n, rngs[:300])
    theirs = []
    for rng in rngs[300:]:
        r = c * (1000 / n) ** (1 / 6)
        u = rng.standard_normal((n, 10))
        u /= np.linalg.norm(u, axis=1, keepdims=True)
        # The function is sum(x² + x³/6): the difference of a pair is r³ sum(u³)/3.
        difference = r**3 * (u**3).sum(1) / 3 + rng.standard_normal((2, n)).T @ [1, -1]
        gradient = (10 / 2 * difference[:, None] * u).mean(0) / r
        theirs.append(gradient @ gradient / 4)
    error = np.hypot(ours.std(), np.std(theirs)) / 300**0.5
    assert abs(ours.mean() - np.mean(theirs)) < 6 * error
    assert ours.mean() == pytest.approx(exact(c, n), rel=0.15)


def test_claims_fail_where_the_numbers_do():
    n = 1_000
    right = {c: np.full(3, exact(c, n)) for c in experiment.MULTIPLES}
    claims = experiment.claims({"cubic": right, "skew": right}, n)
    assert [claim.holds for claim in claims] == [True, True, True]
    off = right | {0.5: np.full(3, 1.13 * exact(0.5, n))}
    lower = right | {2.0: np.full(3, 0.5 * exact(1.0, n))}
    claims = experiment.claims({"cubic": off, "skew": lower}, n)
    assert [claim.holds for claim in claims] == [False, True, False]
    assert claims[0].measured == pytest.approx(1.13)
    assert "0.5 times" in claims[0].note
