import csv

import numpy as np
import pytest

from modicum.core.experiment import Experiment, RunContext
from modicum.daved.evaluation import buyer_errors
from modicum.daved.experiments import real_tables as experiment
from modicum.daved.experiments._purchases import Outcome
from modicum.daved.experiments.real_tables import Size
from modicum.daved.markets import bundled_folds
from modicum.daved.select import select

TINY = Size(repeats=2, folds=2, buyers=3, models=4, orders=1, sets=8)


def _context(path, **settings):
    made = Experiment("real_tables", "modicum-daved", "title", "summary", experiment.run)
    return RunContext(made, path, **settings)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(experiment, "BUNDLED", ("wine", "diabetes"))
    monkeypatch.setattr(experiment, "QUICK", TINY)


@pytest.fixture
def market():
    return next(bundled_folds("wine", buyers=4, rng=np.random.default_rng(0)))


@pytest.mark.filterwarnings("ignore::modicum.daved.errors.DAVEDWarning")
@pytest.mark.parametrize("steps", ["auto", experiment.STEPS])
def test_frank_wolfe_is_that_of_the_selection(market, steps):
    name = experiment.EARLY if steps == "auto" else experiment.CONVERGED
    found = experiment.play(market, TINY, np.random.default_rng(0)).errors[name]
    for column, budget in enumerate(experiment.BUDGETS):
        orders = [
            select(market.rows_nd, query_d[None], budget, max_iter=steps).indices
            for query_d in market.queries_md
        ]
        expected = buyer_errors(market, orders, [budget], ridge=experiment.RIDGE)[:, 0]
        np.testing.assert_allclose(found[:, column], expected)


def test_methods_say_what_they_see():
    assert experiment._shown(experiment.RANDOM) == "nothing"
    assert experiment._shown(experiment.CONVERGED) == "features, queries"
    assert experiment._shown(experiment.NEAREST) == "features, queries"
    assert experiment._shown(experiment.OOB) == "features, labels"
    assert experiment._shown("LAVA") == "features, labels, validation"
    assert experiment._shown("leverage") == "features"


def test_equal_labels_are_counted_on_classes_only():
    assert experiment.MATCHES in experiment.peers("digits", TINY)
    assert experiment.MATCHES not in experiment.peers("diabetes", TINY)
    assert set(experiment.CLASSES) < set(experiment.BUNDLED)


def test_peers_and_designs_get_all_rows_of_every_fold(tiny, tmp_path):
    context = _context(tmp_path)
    found = experiment.measure(context, TINY)
    for outcome in found.values():
        assert outcome.markets.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
        for name, errors in outcome.errors.items():
            assert errors.shape == (12, 3), name
            assert np.isfinite(errors).all(), name
    # Other folds have other buyers.
    random = found["wine"].errors[experiment.NEAREST]
    assert len(np.unique(random[:, 0])) == 12


def test_interrupted_runs_go_on_and_end_the_same(tiny, tmp_path, monkeypatch):
    whole = experiment.measure(_context(tmp_path / "whole"), TINY)
    played, play = [], experiment.play

    def stops(market, size, rng):
        if len(played) == 3:
            raise KeyboardInterrupt
        played.append(market.name)
        return play(market, size, rng)

    monkeypatch.setattr(experiment, "play", stops)
    with pytest.raises(KeyboardInterrupt):
        experiment.measure(_context(tmp_path / "cut"), TINY)
    monkeypatch.setattr(experiment, "play", play)
    again = experiment.measure(_context(tmp_path / "cut"), TINY)
    for table, outcome in whole.items():
        for name, errors in outcome.errors.items():
            np.testing.assert_array_equal(errors, again[table].errors[name])
    # What was kept is not played again: nothing is left to do.
    monkeypatch.setattr(experiment, "play", None)
    experiment.measure(_context(tmp_path / "cut"), TINY)


def test_seeds_differ(tiny, tmp_path):
    one, other = (
        experiment.measure(_context(tmp_path / str(seed), seed=seed), TINY)["wine"]
        for seed in (0, 1)
    )
    assert (one.errors["random"] != other.errors["random"]).all()


def _made(frank_wolfe, **factors):
    """Make a table on which methods have constant ratios to random purchases, by budget."""
    random = np.random.default_rng(0).exponential(size=(40, 3))
    shown = {
        experiment.RANDOM: 1.0,
        experiment.CONVERGED: np.asarray(frank_wolfe),
        experiment.EARLY: factors.get("early", 0.9),
        experiment.GREEDY: factors.get("greedy", 0.9),
        experiment.SINGLE: 0.9,
        experiment.NEAREST: np.asarray(factors.get("nearest", 0.9)),
        experiment.OOB: factors.get("oob", 0.9),
        experiment.OOB_LINEAR: 0.9,
    }
    errors = {name: factor * random for name, factor in shown.items()}
    return Outcome(
        experiment.BUDGETS, errors, np.repeat(np.arange(4), 10), dict.fromkeys(errors, 0.0)
    )


def test_claims_fail_where_they_should():
    def judged(found):
        return {claim.name: claim for claim in experiment.claims(found, quick=False)}

    good = judged({table: _made([0.3, 0.4, 0.5]) for table in "abcdef"})
    assert {claim.holds for claim in good.values()} == {True}
    assert good["frank_wolfe_beats_random"].measured == pytest.approx(0.5)
    assert good["half_of_random"].measured == 6
    assert good["half_of_random"].interval == (6, 6)
    assert "wins on nowhere" in good["not_beaten_by_nearest"].note
    weak = _made([0.6, 0.4, 1.1], nearest=[0.3, 0.5, 1.0], oob=0.2)
    bad = judged({table: _made([0.3, 0.4, 0.5]) for table in "abc"} | dict.fromkeys("def", weak))
    assert bad["frank_wolfe_beats_random"].holds is False
    assert bad["frank_wolfe_beats_random"].measured == pytest.approx(1.1)
    assert "d at 40" in bad["frank_wolfe_beats_random"].note
    assert bad["half_of_random"].holds is False
    assert bad["half_of_random"].measured == 3
    nearest = bad["not_beaten_by_nearest"]
    assert nearest.holds is False
    assert "d at 10 (2.00*)" in nearest.note
    assert "d at 40 (1.10*)" in nearest.note
    assert "d at 20" not in nearest.note
    assert "a at" not in nearest.note
    assert bad["not_beaten_by_data_oob"].holds is False
    assert bad["not_beaten_by_single_step"].holds is True


def test_a_loss_within_chance_has_no_star():
    outcome = _made([0.9, 0.9, 0.9])
    noisy = outcome.errors[experiment.CONVERGED].copy()
    noisy *= np.random.default_rng(1).choice([0.2, 1.9], size=noisy.shape)
    outcome.errors[experiment.CONVERGED] = noisy
    lost = experiment.losses({"a": outcome}, experiment.CONVERGED, experiment.NEAREST)
    assert lost
    assert not any("*" in where for where in lost)


def test_scaled_down_run_reports_what_its_tables_say(tiny, tmp_path):
    context = _context(tmp_path)
    result = experiment.run(context)
    means, lowest, *ratios = result.tables
    assert means.columns[1:4] == ["wine, 10", "wine, 20", "wine, 40"]
    by_name = {row[0]: row[1:] for row in means.rows}
    assert len(by_name) == 5 + 13
    assert by_name[experiment.MATCHES][3:] == [None] * 3
    assert [row[:2] for row in lowest.rows] == [
        [table, budget] for table in ("wine", "diabetes") for budget in experiment.BUDGETS
    ]
    for place, row in enumerate(lowest.rows):
        listed = [errors[place] for errors in by_name.values() if errors[place] is not None]
        assert row[3] == min(listed) == by_name[row[2]][place]
        assert row[4] == by_name[experiment.CONVERGED][place]
    for table, shown in zip(("wine", "diabetes"), ratios, strict=True):
        assert table in shown.title
        start = means.columns.index(f"{table}, 10") - 1
        for name, _, value, low, high, *_ in shown.rows:
            expected = by_name[name][start] / by_name[experiment.RANDOM][start]
            assert value == pytest.approx(expected)
            assert low <= high
    assert len(result.figures) == 3
    assert all(name in result.figures[0].svg for name in ("wine", "diabetes", "nearest"))
    with (tmp_path / "errors.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert result.files == ["errors.csv"]
    assert len(lines) == 18 * 3 + 17 * 3
    found = {(line["table"], line["method"], line["budget"]): line for line in lines}
    line = found["wine", experiment.GREEDY, "20"]
    assert float(line["mean_error"]) == by_name[experiment.GREEDY][1]
    assert "nearest has a lower error" in result.text
