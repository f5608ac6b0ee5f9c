import numpy as np
import pytest

from modicum.core.experiment import Experiment, RunContext
from modicum.daved.experiments import inflated_rows as experiment
from modicum.daved.experiments.inflated_rows import Setting
from modicum.daved.markets import gaussian_market


@pytest.fixture
def context(tmp_path):
    made = Experiment("inflated_rows", "modicum-daved", "title", "summary", experiment.run)
    return RunContext(made, tmp_path)


def test_shares_count_purchases():
    market = gaussian_market(60, 4, 7, rng=np.random.default_rng(0))
    everything = experiment.shares(market, np.arange(60))
    assert everything.tolist() == [1.0] * 7
    parts = [experiment.shares(market, np.arange(start, 60, 3)) for start in range(3)]
    np.testing.assert_allclose(np.sum(parts, axis=0), 1)
    assert experiment.shares(market, np.array([], dtype=int)).tolist() == [0.0] * 7


def test_remedies_bound_the_norms():
    rows = np.random.default_rng(0).standard_normal((50, 4))
    norms = np.linalg.norm(rows, axis=1)
    none, unit, clipped = (remedy(rows) for remedy in experiment.REMEDIES.values())
    assert none is rows
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1)
    expected = np.minimum(norms, np.median(norms))
    np.testing.assert_allclose(np.linalg.norm(clipped, axis=1), expected)


def test_factor_1_and_normalised_rows_are_the_same_purchases():
    honest, treated = (
        experiment.play(Setting("rows of norm 1", factor, "norm 1"), 1, 4, 0)
        for factor in (1.0, 4.0)
    )
    assert honest.tolist() == treated.tolist()
    bare = experiment.play(Setting("rows of norm 1", 4.0, "none"), 1, 4, 0)
    assert bare.mean() > honest.mean()


def test_claims_fail_where_they_should():
    def made(shares, remedy, quick=False):
        found = {
            Setting("rows of norm 1", factor, "none"): np.full(3, share)
            for factor, share in zip(experiment.FACTORS, shares, strict=True)
        }
        for name in list(experiment.REMEDIES)[1:]:
            found[Setting("rows of norm 1", 4.0, name)] = np.array([0.0, remedy, 2 * remedy])
        return [claim.holds for claim in experiment.claims(found, 1, quick=quick)]

    assert made([0.05, 0.5, 0.95], 0.09) == [True, True, True]
    assert made([0.6, 0.5, 0.95], 0.09) == [False, True, True]
    assert made([0.05, 0.5, 0.85], 0.11) == [False, False, False]
    # Shares of 0 to .18 do not tell whether the mean is below .1.
    assert made([0.05, 0.5, 0.95], 0.09, quick=True) == [True, None, None]


def test_intervals_allow_for_markets_that_differ():
    found = {
        Setting("rows of norm 1", factor, remedy): np.repeat([0.0, 0.1], 50)
        for factor in experiment.FACTORS
        for remedy in experiment.REMEDIES
    }
    (_, claim, _) = experiment.claims(found, 2, quick=False)
    # Both draws of a market may be the same one.
    assert claim.measured == pytest.approx(0.05) and claim.interval == pytest.approx((0.0, 0.1))
    assert "100 buyers in 2 markets" in claim.note


def test_scaled_down_run_reports_what_its_table_says(context, monkeypatch):
    monkeypatch.setattr(experiment, "ROWS", 300)
    monkeypatch.setattr(experiment, "INFLATED", 15)
    monkeypatch.setattr(experiment, "QUICK_MARKETS", 1)
    monkeypatch.setattr(experiment, "QUICK_BUYERS", 5)
    result = experiment.run(context)
    (table,) = result.tables
    assert len(table.rows) == 2 * 3 * 3
    shares = {tuple(row[:3]): row[3] for row in table.rows}
    assert result.claims[0].measured == shares["rows of norm 1", 4.0, "none"]
    assert result.claims[1].measured == shares["rows of norm 1", 4.0, "norm 1"]
    assert result.claims[2].measured == shares["rows of norm 1", 4.0, "norm at most the median"]
