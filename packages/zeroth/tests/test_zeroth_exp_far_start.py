import dataclasses

import numpy as np
import pytest

from modicum.core.device import numpy_generator
from modicum.core.experiment import Experiment, RunContext
from modicum.zeroth.experiments import far_start as experiment
from modicum.zeroth.experiments.far_start import ADAPTIVE, BOUNDED, SGD, UNBOUNDED, Runs
from modicum.zeroth.methods.adaptive import Adaptive
from modicum.zeroth.problems import hypot


@pytest.fixture
def context(tmp_path):
    return RunContext(
        Experiment("far_start", "modicum-zeroth", "title", "summary", experiment.run), tmp_path
    )


def test_a_scaled_down_run_reports_what_its_table_says(context, monkeypatch):
    monkeypatch.setattr(experiment, "BUDGETS", (1000, 4000))
    monkeypatch.setattr(experiment, "QUICK_GROWN_BUDGETS", (2000,))
    monkeypatch.setattr(experiment, "DECIDING", 4000)
    monkeypatch.setattr(experiment, "QUICK_SEEDS", 2)
    result = experiment.run(context)
    claims = {claim.name: claim for claim in result.claims}
    (table,) = result.tables
    cells = {tuple(row[:4]): row[4:] for row in table.rows}
    near, far = (cells[BOUNDED, distance, ADAPTIVE, 4000] for distance in (1.0, 10.0))
    assert claims["far_start"].measured == pytest.approx(far[1] / near[1])
    assert claims["far_start"].interval[0] <= far[1] / near[1] <= claims["far_start"].interval[1]
    assert claims["far_start_worst"].measured == far[5]
    regrets = []
    for index in range(2):
        rng = numpy_generator(0, "far_start", UNBOUNDED, 30, 2000, index)
        problem = hypot(10, shift=30.0, rotation=True, rng=rng)
        method = Adaptive(problem.start, 2000, rng=rng)
        regrets.append(problem.regret(method.run(problem.noisy(1.0, rng)).x))
    assert cells[UNBOUNDED, 30.0, ADAPTIVE, 2000][5] == pytest.approx(max(regrets))
    exploded = cells[UNBOUNDED, 30.0, SGD, 2000]
    assert exploded == [2, None, None, None, None, None, 2]
    assert cells[UNBOUNDED, 3.0, SGD, 2000][6] == 0
    assert claims["local_steps_diverge"].measured == 1
    assert claims["nothing_diverges"].measured == 0


def test_an_interrupted_run_goes_on_with_infinite_regrets(context, monkeypatch):
    cells = [(UNBOUNDED, 30.0, SGD, 300)]
    monkeypatch.setattr(experiment, "one_run", lambda cell, rng: (np.inf, 5.0))
    (first,) = experiment.measure(context, cells, 3).values()
    monkeypatch.setattr(experiment, "one_run", None)
    (again,) = experiment.measure(context, cells, 3).values()
    for runs in (first, again):
        assert runs.regret.tolist() == [np.inf] * 3 and runs.start.tolist() == [5.0] * 3
        assert runs.diverged == 3


def failing(quick=False, **changes):
    found = {
        cell: Runs(np.full(4, 1e-3), np.full(4, 100.0)) for cell in experiment.cells_of(quick=False)
    }
    afar = (UNBOUNDED, 30.0, SGD, 10**4)
    found[afar] = Runs(np.array([1e9, np.inf, 101.0, 1e30]), np.full(4, 100.0))
    changed = {
        "far": (BOUNDED, 10.0, ADAPTIVE, 10**5),
        "own": (UNBOUNDED, 30.0, ADAPTIVE, 10**5),
        "peer": afar,
    }
    for name, regret in changes.items():
        cell = changed[name]
        found[cell] = dataclasses.replace(found[cell], regret=np.array(regret))
    return {claim.name for claim in experiment.claims(found, 0, quick) if not claim.holds}


def test_claims_fail_where_they_must():
    assert not failing() and not failing(quick=True)
    assert failing(far=[3.9e-3] * 4) == set()
    assert failing(far=[4.1e-3] * 4) == failing(far=[4.1e-3] * 4, quick=True) == {"far_start"}
    # Of four seeds one of which is bad, a quick run cannot tell the ratio.
    undecided = failing(far=[1e-3, 1e-3, 1e-3, 0.06], quick=True)
    assert undecided == {"far_start", "far_start_worst"}
    assert failing(own=[1e-3, 1e-3, 101.0, 1e-3]) == {"nothing_diverges"}
    assert failing(own=[1e-3, 1e-3, np.nan, 1e-3]) == {"nothing_diverges"}
    assert failing(peer=[np.inf, np.inf, 1.0, np.inf]) == {"local_steps_diverge"}
