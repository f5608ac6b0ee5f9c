from math import pi, sqrt
from types import SimpleNamespace

import numpy as np
import pytest

from modicum.core.experiment import Experiment, RunContext
from modicum.zeroth.experiments import lower_bound as experiment
from modicum.zeroth.experiments.lower_bound import Outcome, Setting


@pytest.fixture
def context(tmp_path):
    return RunContext(
        Experiment("lower_bound", "modicum-zeroth", "title", "summary", experiment.run), tmp_path
    )


class StaysAt:
    """A method that recommends a given place."""

    def __init__(self, place):
        self.place = place

    def run(self, fun):
        return SimpleNamespace(x=self.place)


def test_bounds_are_the_written_out_ones():
    for d, budget in ((1, 10_000), (7, 300)):
        rate = d / budget ** (2 / 3)
        lower, upper = experiment.bounds(d, budget)
        assert lower == pytest.approx(rate / (128 * pi ** (4 / 3)))
        assert lower == pytest.approx(0.0017 * rate, rel=0.01)
        assert upper == pytest.approx(27.85 * rate, rel=1e-3)


def test_regret_is_that_of_the_instance_for_the_budget(monkeypatch):
    monkeypatch.setitem(
        experiment.METHODS, "middle", lambda x0, budget, rng: StaysAt(np.zeros_like(x0))
    )
    monkeypatch.setitem(experiment.METHODS, "start", lambda x0, budget, rng: StaysAt(x0))
    budget = 100_000
    middle = experiment.play(Setting("middle", 4, budget), 3, 0)
    # By hand, one coordinate: x² + y0 (u/2 - cos(u/2) + pi/2) on a fine grid, u = x/x0.
    y0 = 1 / (pi * sqrt(budget))
    u = np.linspace(-pi, 0, 2_000_001)
    values = (u * y0 ** (1 / 3)) ** 2 + y0 * (u / 2 - np.cos(u / 2) + pi / 2)
    assert middle.regrets == pytest.approx(4 * (values[-1] - values.min()), rel=1e-6)
    assert middle.right_side == 0
    # A start at distance 1, far from all wells: |x|² and the height of the plateau.
    start = experiment.play(Setting("start", 1, budget), 3, 0)
    assert start.regrets == pytest.approx(1 + 2 * pi * y0 - values.min(), rel=1e-6)


def test_scaled_down_run_reports_what_its_tables_say(context, monkeypatch):
    monkeypatch.setattr(experiment, "QUICK_DIMENSIONS", (1, 2))
    monkeypatch.setattr(experiment, "QUICK_BUDGETS", (1_000, 3_000))
    monkeypatch.setattr(experiment, "QUICK_SEEDS", 4)
    result = experiment.run(context)
    (table,) = result.tables
    assert len(table.rows) == 4 * len(experiment.METHODS)
    claims = {claim.name: claim for claim in result.claims}
    assert len(claims) == 2 * len(experiment.METHODS)
    for name in experiment.METHODS:
        short = name.replace(", ", "_").replace("-", "_").replace(" ", "_")
        rows = [row for row in table.rows if row[0] == name]
        above, below = (claims[f"{end}_bound_{short}"] for end in ("above_lower", "below_upper"))
        assert above.measured == pytest.approx(min(row[3] / row[6] for row in rows))
        assert below.measured == pytest.approx(max(row[3] / row[7] for row in rows))
        assert above.holds == (above.measured >= 1)
        assert below.holds == (below.measured <= 1)
        assert above.interval[0] < above.measured < above.interval[1]
    # Whoever has sampled at all is far from the start, whose regret is 1, and above every bound.
    assert all(row[3] < 1 for row in table.rows if row[2] == 3_000)
    setting = Setting("two-stage", 2, 1_000)
    one, again = (experiment.play(setting, 2, 5).regrets for _ in range(2))
    assert one.tolist() == again.tolist()
    assert one.tolist() != experiment.play(setting, 2, 6).regrets.tolist()


def test_claims_fail_outside_the_bounds():
    lower, upper = experiment.bounds(2, 1_000)
    setting, other = Setting("two-stage", 2, 1_000), Setting("two-stage", 2, 10_000)
    inside = Outcome(np.full(3, 10 * lower), 0.5)
    good = {setting: inside, other: Outcome(np.full(3, experiment.bounds(2, 10_000)[1] / 2), 0.5)}
    assert [claim.holds for claim in experiment.claims(good)] == [True, True]
    for regret, expected in ((lower / 2, [False, True]), (2 * upper, [True, False])):
        bad = {**good, setting: Outcome(np.full(3, regret), 0.5)}
        claims = experiment.claims(bad)
        assert [claim.holds for claim in claims] == expected
        assert "budget 1,000" in claims[expected.index(False)].note
