import numpy as np
import pytest

from modicum.core.experiment import Experiment, RunContext
from modicum.daved.experiments import solver_accuracy as experiment
from modicum.daved.experiments.solver_accuracy import Setting, Trace
from modicum.daved.pool import ArrayPool
from modicum.daved.solvers.base import Design, Problem, Step


@pytest.fixture
def context(tmp_path):
    made = Experiment("solver_accuracy", "modicum-daved", "title", "summary", experiment.run)
    return RunContext(made, tmp_path)


def test_optimum_of_orthogonal_rows_is_the_written_out_one():
    # Weights w on unit rows cost mean_i sum_j q_ij² / w_j, least at w_j ∝ sqrt(mean_i q_ij²).
    queries = np.array([[1.0, -2.0, 0.5], [0.3, 1.0, 3.0]])
    pool = ArrayPool(np.eye(3))
    for chosen in (queries[:1], queries):
        expected = np.sqrt(np.square(chosen).mean(axis=0)).sum() ** 2
        found = experiment.optimum(Problem(pool, chosen), cones=False)
        assert found == pytest.approx(expected, rel=1.1e-4)
        assert found <= expected * (1 + 1e-9)


def test_trace_compares_with_the_optimum():
    history = (Step(0, 4.0, 3.5), Step(1, 3.0, 0.5))
    design = Design(np.ones(1), 2.5, 0.4, np.ones(1), np.eye(1), history=history)
    trace = experiment.trace(design, 2.0)
    np.testing.assert_allclose(trace.excess, [1.0, 0.5, 0.25])
    # Gaps are 2 and 1; the second certificate is half a unit short, a quarter of the optimum.
    np.testing.assert_allclose(trace.slack, [0.75, -0.25])
    assert [trace.after(steps) for steps in (0, 1, 2, 9)] == [1.0, 0.5, 0.25, 0.25]


def test_prices_of_1_make_all_rules_the_same(monkeypatch):
    monkeypatch.setattr(experiment, "PRICES", (1.0,))
    monkeypatch.setattr(experiment, "PRICED_STEPS", 500)
    found = experiment.play_priced(0, 0, "rows of norm 1", cones=False)
    assert set(found) == set(experiment.RULES)
    # Steps that are not searched for differ.
    searched = [found[name] for name in found if name != experiment.PAPER_RULE_OPEN]
    assert searched == pytest.approx([found["exact rule"]] * 3, abs=1e-9)
    assert 0 < found["exact rule"] < 0.01


def test_equal_prices_of_any_height_make_all_rules_the_same(monkeypatch):
    monkeypatch.setattr(experiment, "PRICES", (3.0,))
    found = experiment.play_priced(0, 0, "Gaussian rows", cones=False)
    searched = [found[name] for name in found if name != experiment.PAPER_RULE_OPEN]
    assert searched == pytest.approx([found["exact rule"]] * 3, abs=1e-6)


def _found(excess, slack):
    one = Trace(np.full(1001, excess), np.full(1000, slack))
    return {Setting(9, 2, 1): [dict.fromkeys(experiment.SOLVERS, one)]}


def test_claims_fail_where_they_should():
    def judged(excess, slack, exact, paper):
        rules = dict.fromkeys(experiment.RULES, 1.0)
        rules |= {experiment.EXACT_RULE: exact, experiment.PAPER_RULE: paper}
        priced = {"Gaussian rows": [rules], "rows of norm 1": [dict.fromkeys(rules, 0.0)]}
        return [claim.holds for claim in experiment.claims(_found(excess, slack), priced)]

    assert judged(0.01, 0.0, 0.005, 0.21) == [True, True, True, True, True]
    assert judged(0.03, -5e-5, 0.006, 0.2) == [False, True, True, False, False]
    assert judged(0.06, -2e-4, 0.0, 0.3) == [False, False, False, True, True]


def test_scaled_down_run_reports_what_its_tables_say(context, monkeypatch):
    monkeypatch.setattr(experiment, "SETTINGS", (Setting(120, 6, 1), Setting(60, 3, 2)))
    monkeypatch.setattr(experiment, "PRICED", Setting(60, 3, 2))
    monkeypatch.setattr(experiment, "QUICK_MARKETS", 2)
    monkeypatch.setattr(experiment, "STEPS", 100)
    monkeypatch.setattr(experiment, "PRICED_STEPS", 200)
    result = experiment.run(context)
    *by_setting, by_rule = result.tables
    claims = {claim.name: claim for claim in result.claims}
    for setting, table in zip(experiment.SETTINGS, by_setting, strict=True):
        rows = {row[0]: row[1:] for row in table.rows}
        # More steps, less excess; and the table has no column beyond the last step.
        line = rows[experiment.LINE_SEARCH]
        assert line[0] >= line[1] >= line[2] >= 0
        assert line[3] is None
        certificates = claims[f"certificates_{setting.label}"]
        assert certificates.measured == min(row[-1] for row in rows.values())
        assert certificates.holds
        # Worst of markets against their mean.
        assert claims[f"line_search_{setting.label}"].measured >= line[2]
    rules = {tuple(row[:2]): row[2:] for row in by_rule.rows}
    assert len(rules) == 8
    assert claims["exact_rule"].measured == rules["Gaussian rows", "exact rule"][1]
    assert claims["published_rule"].measured == rules["Gaussian rows", "published rule"][0]
    for lengths in experiment.LENGTHS:
        # Open steps by the published rule get as near as the exact rule's line search, about.
        assert rules[lengths, experiment.PAPER_RULE_OPEN][0] < 0.01
        assert rules[lengths, "exact rule"][0] < rules[lengths, "blind to prices"][0]
