"""The audit of metrics: what it catches, and the figures it takes apart."""

import numpy as np
import pytest

from modicum.core.experiment import Experiment, RunContext
from modicum.repcomplexity.experiments import metric_audit as experiment
from modicum.repcomplexity.experiments.metric_audit import LOGGED, Fixed, Logged, Plan
from modicum.repcomplexity.metrics import zhu2024


def context(path, **settings):
    made = Experiment("metric_audit", "modicum-repcomplexity", "title", "summary", experiment.run)
    return RunContext(made, path, **settings)


def fixed(n=96, d=1, seed=0):
    rng = np.random.default_rng(seed)
    targets = rng.normal(3, 1, (n, d))
    return Fixed(targets, targets + rng.normal(0, 0.3, (n, d)))


def test_all_claims_of_a_small_run_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "QUICK", Plan((4, 8), 320))
    result = experiment.run(context(tmp_path))
    assert {claim.name: claim.holds for claim in result.claims} == dict.fromkeys(
        (
            "zhu2024_scale",
            "fvu_scale",
            "uncentred_offset",
            "fvu_offset",
            "feng2023_dimensions",
            "feng2023_fixed",
            "zhu2024_formula",
            "logged_errors",
            "logged_order",
        ),
        True,
    )
    table = result.tables[0]
    assert table.columns[:3] == ["n", "times", "plus"] and len(table.rows) == 12
    again = experiment.run(context(tmp_path / "again"))
    assert [claim.measured for claim in again.claims] == [c.measured for c in result.claims]


@pytest.mark.parametrize("n", [96, 100])
def test_batches_are_added_up_as_the_metric_says_where_they_are_equal(n):
    one = fixed(n)
    added, metric = experiment.summed_over_batches(one), float(zhu2024(one.sums()))
    assert (added == pytest.approx(metric, rel=1e-12)) == (n % 32 == 0)
    assert experiment.formula_claim([one]).holds == (n % 32 == 0)


def test_a_metric_that_moves_is_caught(monkeypatch):
    monkeypatch.setattr(experiment, "fvu", experiment.nrmse_uncentred)
    moved = {claim.name: claim.holds for claim in experiment.offset_claims({8: fixed()})}
    assert moved == {"uncentred_offset": True, "fvu_offset": False}
    monkeypatch.setattr(experiment, "zhu2024", experiment.nrmse_uncentred)
    scaled = {claim.name: claim.holds for claim in experiment.scale_claims({8: fixed()})}
    assert scaled == {"zhu2024_scale": False, "fvu_scale": True}


def test_an_offset_that_makes_the_norm_smaller_is_caught():
    one = fixed()
    claims = experiment.offset_claims({8: Fixed(one.targets - 6, one.predictions - 6)})
    assert [claim.holds for claim in claims] == [False, True]


def test_dimensions_are_what_the_second_paper_leaves_out():
    claims = experiment.dimension_claims({4: fixed(d=5), 8: fixed(d=17)})
    assert all(claim.holds for claim in claims)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [("1.80", 1.795, 1.805), (".0026", 0.00255, 0.00265), ("7.8e-6", 7.75e-6, 7.85e-6)],
)
def test_a_rounded_number_stands_for_an_interval(text, low, high):
    assert experiment.ends(text) == pytest.approx((low, high), rel=1e-12)


def test_a_logged_error_agrees_within_its_digits_only():
    q = LOGGED["HalfCheetah"][1]
    # 3125 / √99999 · 44.3 · .0350² by hand.
    assert experiment.recomputed(q)[0] == pytest.approx(9.88217 * 44.3 * 0.0350**2, rel=1e-5)
    assert experiment.agrees(q)
    assert not experiment.agrees(Logged(q.dimensions, q.rms, q.nrmse, ".600"))
    assert not experiment.agrees(Logged(4, q.rms, q.nrmse, q.relative))


def test_an_order_that_is_kept_is_no_finding(monkeypatch):
    state, q = LOGGED["Ant"]
    kept = Logged(q.dimensions, q.rms, ".200", q.relative)
    monkeypatch.setattr(experiment, "LOGGED", {"Ant": (state, kept)})
    errors, order = experiment.published_claims()
    assert errors.holds is False and order.holds is False and order.measured == 1


def test_the_gap_is_unit_times_error():
    for row in experiment.published_table().rows:
        assert row[5] == pytest.approx(row[6] * row[7], rel=0.05)
