from dataclasses import replace

import numpy as np
import pytest

from modicum.core.experiment import Experiment, RunContext
from modicum.daved.errors import DAVEDWarning
from modicum.daved.evaluation import Ratio
from modicum.daved.experiments import prices as experiment
from modicum.daved.experiments._purchases import Outcome
from modicum.daved.experiments.prices import Found, Size
from modicum.daved.markets import CORRUPTIONS, QUALITIES, gaussian_market, priced_market
from modicum.daved.rounding import purchase
from modicum.daved.select import select

TINY = Size(buyers=3, priced=2, noisy=2, published=1, models=4)


@pytest.fixture
def market():
    plain = gaussian_market(80, 6, 3, rng=np.random.default_rng(0))
    return priced_market(plain, "linear", rng=np.random.default_rng(1))


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(experiment, "QUICK", TINY)
    monkeypatch.setattr(experiment, "ROWS", 400)
    monkeypatch.setattr(experiment, "FEATURES", 8)


def _context(path, **settings):
    made = Experiment("prices", "modicum-daved", "title", "summary", experiment.run)
    return RunContext(made, path, **settings)


@pytest.mark.filterwarnings("ignore::modicum.daved.errors.DAVEDWarning")
@pytest.mark.parametrize(
    ("rule", "told", "settings"),
    [
        ("paper", False, {"cost_mode": "paper"}),
        ("exact", False, {"cost_mode": "exact"}),
        ("exact", True, {"cost_mode": "exact"}),
    ],
)
def test_frank_wolfe_buys_as_the_selection_does(market, rule, told, settings):
    noise_n = market.noise_var_n if told else None
    found = experiment.by_frank_wolfe(market, rule, noise_n)
    for budget, orders in zip(experiment.BUDGETS, found, strict=True):
        for query_d, order in zip(market.queries_md, orders, strict=True):
            asked = {"costs": market.prices_n, "noise_var": noise_n, **settings}
            expected = select(market.rows_nd, query_d[None], budget, **asked).indices
            bought = purchase(order, market.prices_n, budget)
            assert bought.tolist() == expected.tolist()


@pytest.mark.filterwarnings("ignore::modicum.daved.errors.DAVEDWarning")
def test_blind_purchases_rank_without_prices_and_pay_them(market):
    orders = experiment.by_frank_wolfe(market, "none")[-1]
    for query_d, order in zip(market.queries_md, orders, strict=True):
        expected = select(market.rows_nd, query_d[None], 10, max_iter=20).indices
        assert order[:10].tolist() == expected.tolist()


@pytest.mark.parametrize("told", [False, True])
def test_greedy_buys_as_the_selection_does(market, told):
    noise_n = market.noise_var_n if told else None
    found = experiment.by_greedy(market, noise_n, prior=0.3)
    for budget, orders in zip(experiment.BUDGETS, found, strict=True):
        for query_d, order in zip(market.queries_md, orders, strict=True):
            asked = {"costs": market.prices_n, "noise_var": noise_n, "prior": 0.3}
            chosen = select(market.rows_nd, query_d[None], budget, solver="greedy", **asked)
            assert order.tolist() == chosen.indices.tolist()


def test_the_selection_warns_of_what_the_experiment_shows(market):
    with pytest.warns(DAVEDWarning, match="noise_var"):
        select(market.rows_nd, market.queries_md[:1], 5, noise_var=market.noise_var_n)


def test_cheapest_orders_climb_and_differ_among_equals(market):
    orders = experiment.cheapest_orders(market, np.random.default_rng(0))
    assert (np.diff(market.prices_n[orders], axis=1) >= 0).all()
    assert [sorted(order) for order in orders] == [list(range(80))] * 3
    assert len({tuple(order[:8]) for order in orders}) == 3


def test_purchases_of_one_price_have_that_price_and_that_size(market, monkeypatch):
    monkeypatch.setattr(experiment, "OF_ONE_PRICE", 7)
    # With true labels of the dearest only, a model of seven records of six features is right.
    wrong = np.where(market.prices_n == 5, market.clean_n, 99.0)
    errors = experiment.of_one_price(
        replace(market, labels_n=wrong, noise_var_n=None), 1e-12, np.random.default_rng(0)
    )
    low, high = experiment.one_price(1), experiment.one_price(5)
    assert errors[high].shape == (3, len(experiment.BUDGETS))
    assert errors[high].max() < 1e-12
    assert errors[low].min() > 1e-3


def test_shares_of_marked_records_are_counted_by_budget():
    orders = [np.arange(100), np.arange(100)[::-1]]
    shares = experiment.bought(orders, np.array([0, 1, 2, 12]))
    assert shares[0].tolist() == [3 / 5, 3 / 10, 4 / 20, 4 / 30, 4 / 60]
    assert shares[1].tolist() == [0] * 5


def test_screening_keeps_to_what_is_preferred():
    plain = gaussian_market(50, 4, 2, rng=np.random.default_rng(0))
    preferred = np.random.default_rng(1).permutation(50)
    for order in experiment._screened(plain, preferred):
        assert sorted(order) == sorted(preferred[:25])


def test_honest_sellers_are_asked_once():
    names = [experiment.condition(*each) for each in experiment.conditions()]
    assert names.count("honest") == 1
    assert len(set(names)) == len(names) == 7


@pytest.mark.parametrize(
    ("ratio", "quick", "expected"),
    [
        (Ratio(1.0, 0.9, 1.1), True, True),
        (Ratio(1.0, 0.7, 1.3), True, None),
        (Ratio(1.0, 0.7, 1.3), False, True),
        (Ratio(1.5, 1.3, 1.7), True, False),
        (Ratio(0.7, 0.6, 0.9), True, None),
        (Ratio(0.7, 0.6, 0.9), False, False),
    ],
)
def test_alike_has_two_sides(ratio, quick, expected):
    assert experiment._alike(ratio, quick) is expected


def _outcome(budgets, **factors):
    base = np.random.default_rng(0).exponential(size=(30, len(budgets))) + 1
    errors = {name: np.asarray(factor) * base for name, factor in factors.items()}
    return Outcome(budgets, errors, np.repeat(np.arange(3), 10), {})


def _priced(**changes):
    names = (*experiment.BASELINES, *experiment.SIMPLE_RULES, experiment.BLIND)
    factors = dict.fromkeys(names, 1.0) | {
        experiment.PAPER: 0.4,
        experiment.EXACT: 0.4,
        experiment.GREEDY: 0.5,
        experiment.TOLD: 0.8,
        experiment.one_price(1): 1.0,
        experiment.one_price(5): 0.5,
    }
    return _outcome(experiment.BUDGETS, **factors | changes)


def _noisy(frank_wolfe, oob, screened, share=0.3):
    budgets = experiment.NOISY_BUDGETS
    factors = {
        experiment.FRANK_WOLFE: frank_wolfe,
        experiment.RANDOM: 1.5,
        experiment.OOB: oob,
        experiment.SCREENED_FIRST: screened,
    }
    taken = {experiment.FRANK_WOLFE: share, experiment.OOB: 0.1}
    ones = Outcome(
        budgets,
        {name: np.full((30, len(budgets)), part) for name, part in taken.items()},
        np.repeat(np.arange(3), 10),
        {},
    )
    return _outcome(budgets, **factors), ones


def _found(priced, published, noise, shift):
    honest = _outcome(
        experiment.NOISY_BUDGETS, **{experiment.FRANK_WOLFE: 0.1, experiment.RANDOM: 1.0}
    )
    noisy = {"honest": honest}
    for kind, (errors, shares) in zip(CORRUPTIONS, (noise, shift), strict=True):
        name = experiment.condition(kind, 0.3)
        noisy |= {name: errors, name + experiment.BOUGHT: shares}
    return Found(
        dict(zip(QUALITIES, priced, strict=True)),
        dict(zip(QUALITIES, published, strict=True)),
        noisy,
    )


def test_claims_fail_where_they_should():
    wrong = {experiment.one_price(5): 3.0}
    good = _found(
        [_priced()] * 3, [_priced(**wrong)] * 3, _noisy(0.3, 0.2, 0.1), _noisy(0.4, 0.2, 0.1)
    )
    judged = {claim.name: claim for claim in experiment.claims(good, quick=False)}
    assert {claim.holds for claim in judged.values()} == {True}
    assert judged["prices_beat_blind"].measured == pytest.approx(0.4)
    assert judged["noise_misleads_weights"].measured == pytest.approx(2)
    assert judged["worthless_labels_are_bought"].measured == pytest.approx(1)
    # 0.3 of 0.4 less the honest 0.1, over 0.5: the worse kind is the second.
    assert judged["worthless_labels_cost_no_more"].measured == pytest.approx(0.6)
    assert judged["published_market_mislabels"].measured == pytest.approx(3)
    assert {claim.name for claim in judged.values() if claim.paper} == {
        "multi_step_lowest",
        "multi_step_lowest_published",
    }
    # One quality that fails is enough.
    weak = _priced(
        **{
            experiment.EXACT: 0.8,
            experiment.PAPER: 1.2,
            experiment.TOLD: 0.7,
            experiment.one_price(5): 1.2,
        }
    )
    bad = _found(
        [_priced(), weak, _priced()],
        [_priced(), weak, _priced(**wrong)],
        _noisy(0.3, 0.4, 0.2, share=0.1),
        _noisy(1.8, 2.0, 1.7, share=0.1),
    )
    failed = {claim.name: claim for claim in experiment.claims(bad, quick=False)}
    assert {claim.holds for claim in failed.values()} == {False}
    assert failed["prices_beat_blind"].measured == pytest.approx(0.8)
    assert "h = linear" in failed["prices_beat_blind"].note
    assert "linear 1.20 (random)" in failed["multi_step_lowest"].note
    assert failed["noise_misleads_weights"].measured == pytest.approx(7 / 8)
    assert failed["rules_alike"].measured == pytest.approx(2 / 3)
    assert failed["worthless_labels_cost_no_more"].measured == pytest.approx(3.4)
    assert failed["labels_would_tell"].measured == pytest.approx(1.7 / 1.8)


def test_scaled_down_run_reports_what_its_tables_say(tiny, tmp_path):
    result = experiment.run(_context(tmp_path))
    assert [table.title.split(",")[0] for table in result.tables] == [
        *["Error at equal spending"] * 3,
        "Error where some sellers' labels are worthless",
        *["Error in the market of the published code"] * 3,
    ]
    for table in result.tables[:3] + result.tables[4:]:
        rows = {row[0]: row[1:] for row in table.rows}
        assert not any("records of price" in name for name in rows)
        for row in rows.values():
            for place in range(0, len(row), 4):
                error, ratio, low, high = row[place : place + 4]
                assert ratio == pytest.approx(error / rows["random"][place])
                assert low <= ratio <= high or row is rows["random"]
    honest = {row[1]: row for row in result.tables[3].rows if row[0] == "honest"}
    assert len(honest) == 5
    assert all(row[-1] == 0 for row in honest.values())
    claims = {claim.name: claim for claim in result.claims}
    assert len(claims) == 17
    by_quality = [{row[0]: row[1:] for row in table.rows} for table in result.tables[:3]]
    at_five = [rows[experiment.EXACT][0] / rows[experiment.BLIND][0] for rows in by_quality]
    assert claims["prices_beat_blind"].measured == pytest.approx(max(at_five))
    assert len(result.figures) == 5


def test_interrupted_runs_go_on_and_end_the_same(tiny, tmp_path, monkeypatch):
    whole = experiment.measure(_context(tmp_path / "whole"), TINY)
    monkeypatch.setattr(experiment, "play_noisy", None)
    with pytest.raises(TypeError):
        experiment.measure(_context(tmp_path / "cut"), TINY)
    monkeypatch.undo()
    monkeypatch.setattr(experiment, "ROWS", 400)
    monkeypatch.setattr(experiment, "FEATURES", 8)
    monkeypatch.setattr(experiment, "play_priced", None)
    monkeypatch.setattr(experiment, "play_published", None)
    again = experiment.measure(_context(tmp_path / "cut"), TINY)
    for part in ("priced", "published", "noisy"):
        for key, outcome in getattr(whole, part).items():
            other = getattr(again, part)[key]
            assert other.markets.tolist() == outcome.markets.tolist()
            for name, errors in outcome.errors.items():
                np.testing.assert_array_equal(errors, other.errors[name])


def test_labels_noise_is_the_only_thing_that_differs_between_qualities(tiny):
    played = experiment.play_priced(TINY, 0, seed=3)
    assert set(played) == set(QUALITIES)
    # Records of price 1, which small budgets for the cheapest are spent on, have the same noise
    # under every quality.
    for budget in range(2):
        errors = [played[quality][experiment.CHEAPEST][:, budget] for quality in QUALITIES]
        np.testing.assert_allclose(errors[0], errors[1])
        np.testing.assert_allclose(errors[0], errors[2])
    other = experiment.play_priced(TINY, 1, seed=3)["sqrt"]
    assert (other[experiment.CHEAPEST] != played["sqrt"][experiment.CHEAPEST]).all()
