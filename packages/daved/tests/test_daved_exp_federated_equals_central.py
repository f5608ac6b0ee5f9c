import numpy as np
import pytest

from modicum.core.experiment import Experiment, RunContext
from modicum.daved.experiments import federated_equals_central as experiment
from modicum.daved.experiments.federated_equals_central import BASE, Setting

SMALL = Setting(120, 5, 2, 3)


@pytest.fixture
def context(tmp_path):
    made = Experiment("federated_equals_central", "modicum-daved", "title", "why", experiment.run)
    return RunContext(made, tmp_path)


@pytest.mark.parametrize("sellers", [1, 4, 16])
def test_sellers_differ_in_size_and_leave_nothing_out(sellers):
    market = experiment.make_market(Setting(400, 5, 1, sellers, priced=True), 0, 0)
    shops = experiment.sellers_of(market, sellers)
    np.testing.assert_array_equal(np.concatenate([shop.rows for shop in shops]), market.rows_nd)
    prices = np.concatenate([shop.prices_n for shop in shops])
    np.testing.assert_array_equal(prices, market.prices_n)
    sizes = [len(shop.rows) for shop in shops]
    assert len(shops) == sellers and min(sizes) > 0
    assert sellers == 1 or (sizes == sorted(sizes) and sizes[-1] > 2 * sizes[0])


def test_markets_are_the_same_for_any_number_of_sellers():
    few, many = (experiment.make_market(Setting(50, 4, 1, k, True), 1, 7) for k in (1, 9))
    np.testing.assert_array_equal(few.rows_nd, many.rows_nd)
    np.testing.assert_array_equal(few.prices_n, many.prices_n)
    assert set(few.prices_n) > {1.0}
    assert set(experiment.make_market(SMALL, 1, 7).prices_n) == {1.0}


def test_formulas_by_hand():
    # 3 sellers, 5 features, 2 queries; 4 bytes a number, 7 rounds, 6 steps, 4 rows.
    assert experiment.reveal_bytes(SMALL, 4, rounds=7, steps=6, revealed=4) == {
        "gram_reply": 3 * 4 * 15,
        "score": 7 * 3 * 4 * 5 * 2,
        "score_reply": 7 * 3 * 16,
        "reveal": 4 * (4 * 5 * 2 + 8),
        "reveal_reply": 4 * (4 * 5 + 8),
        "commit": 6 * 3 * 16,
    }
    assert experiment.masked_bytes(SMALL, updates=2, thresholds=9) == {
        "aggregate": 3 * 2 * 8 * 5 * 2,
        "aggregate_reply": 3 * 8 * (3 * 16 + 2 * 9),
        "peak": 3 * 8 * 5 * 2,
    }


@pytest.mark.parametrize("priced", [False, True])
def test_protocols_buy_what_central_runs_buy(priced):
    setting = Setting(120, 5, 2, 3, priced)
    for name, protocol in experiment.PROTOCOLS.items():
        found = protocol.play(setting, 0, 3)
        assert found["same"] and found["bytes"] == 0, name
    exact = experiment.play_masked(setting, 0, 3, experiment.EXACT_BITS)["apart"]
    coarse = experiment.play_masked(setting, 0, 3, 16)["apart"]
    assert exact < 1e-10 < 1e-6 < coarse


def test_a_central_run_of_other_rows_is_told_apart(monkeypatch):
    other = experiment.make_market(SMALL, 1, 3)
    monkeypatch.setattr(
        experiment,
        "_problem",
        lambda market: experiment.Problem(experiment.ArrayPool(other.rows_nd), other.queries_md),
    )
    found = experiment.play_revealing(SMALL, 0, 3)
    assert not found["same"] and found["apart"] > 1e-3
    assert not experiment.play_masked(SMALL, 0, 3, 44)["same"]


def test_bytes_of_a_round_follow_the_formula():
    found = experiment.play_growth(SMALL, 0)
    asked = 4 * 5 * 2
    assert found["down"] == pytest.approx(3 * (asked + 16) + asked + 8)
    assert found["up"] == pytest.approx(3 * 16 + 4 * 5 + 8)
    assert found["frames"] > found["down"] + found["up"]
    assert found["gram"] == 3 * 4 * 15


def test_fewer_broadcasts_need_fewer_bytes():
    one, four = experiment.play_batches(1, 0), experiment.play_batches(4, 0)
    assert one["objective"] == pytest.approx(1, abs=1e-12)
    assert four["rounds"] < one["rounds"] / 3 and four["bytes"] < one["bytes"]


def test_claims_fail_where_they_should():
    good = {"same": True, "apart": 1e-14, "bytes": 0.0}
    bad = {"same": False, "apart": 1e-9, "bytes": 0.01}
    runs = {SMALL: [good, good]}
    held = experiment.claims(runs, runs, {8: 100.0, 16: 150.0, 32: 280.0})
    assert all(claim.holds for claim in held)
    assert held[-1].measured == pytest.approx(np.log2(280 / 150)) and held[-1].paper == "O(d)"
    failed = experiment.claims({SMALL: [good, bad]}, {SMALL: [bad, good]}, {8: 100.0, 16: 201.0})
    assert not any(claim.holds for claim in failed)
    assert failed[0].measured == 0.5
    assert len({claim.name for claim in failed}) == len(failed)


def test_scaled_down_run_resumes_and_reports_what_it_kept(context, monkeypatch):
    monkeypatch.setattr(experiment, "QUICK_SIZES", ((120, 5, 2),))
    monkeypatch.setattr(experiment, "SELLERS", (1, 3))
    for name in experiment.QUICK_PROTOCOLS:
        small = experiment.replace(experiment.PROTOCOLS[name], sellers=(2, 3))
        monkeypatch.setitem(experiment.PROTOCOLS, name, small)
    monkeypatch.setattr(experiment, "BASE", experiment.replace(BASE, n=120, d=8))
    monkeypatch.setattr(
        experiment, "QUICK_GROWING", {"sellers": (1, 2), "d": (4, 8), "queries": (1, 2)}
    )
    monkeypatch.setattr(experiment, "BATCHES", (1, 2))
    result = experiment.run(context)
    assert all(claim.holds for claim in result.claims)
    equality, growth, batches = result.tables
    assert len(equality.rows) == 2 * 2 * 2 and len(growth.rows) == 6 and len(batches.rows) == 2

    def never(*_):
        raise AssertionError("a kept result was computed again")

    monkeypatch.setattr(experiment, "_buy", never)
    again = experiment.run(context)
    assert [claim.measured for claim in again.claims] == [c.measured for c in result.claims]
    assert [table.rows for table in again.tables] == [table.rows for table in result.tables]
