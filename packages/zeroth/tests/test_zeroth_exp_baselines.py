import numpy as np
import pytest

from modicum.core.experiment import Experiment, RunContext
from modicum.zeroth.comparison import measure
from modicum.zeroth.experiments import baselines


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(baselines, "QUICK_COLUMNS", (("skew", 1000), ("stretched", 1000)))
    monkeypatch.setattr(baselines, "QUICK_SEEDS", 3)
    monkeypatch.setattr(baselines, "LARGE", 1000)
    monkeypatch.setattr(baselines, "UNTUNED", ("spsa", "spsa-asymptotic"))


def context(tmp_path, seed=4):
    experiment = Experiment("baselines", "modicum-zeroth", "title", "summary", baselines.run)
    return RunContext(experiment, tmp_path, quick=True, seed=seed)


def summary(method, problem, statistic):
    setting = {"dimension": baselines.DIMENSION, "sigma": 1.0, "budget": 1000}
    return statistic([measure(problem, method, seed=s, **setting).regret for s in (4, 5, 6)])


def median(method, problem):
    return summary(method, problem, np.median)


def test_ratios_are_those_of_separate_runs(tmp_path, small):
    result = baselines.run(context(tmp_path))
    claims = {claim.name: claim for claim in result.claims}
    worst = max(
        median("adaptive", problem)
        / min(median("spsa", problem), median("spsa-asymptotic", problem))
        for problem in ("skew", "stretched")
    )
    claim = claims["against_best_untuned_median"]
    assert claim.measured == pytest.approx(worst)
    low, high = claim.interval
    assert claim.holds is (True if high <= 2 else False if low > 2 else None)
    by_mean = max(
        summary("adaptive", problem, np.mean)
        / min(summary(name, problem, np.mean) for name in ("spsa", "spsa-asymptotic"))
        for problem in ("skew", "stretched")
    )
    assert claims["against_best_untuned_mean"].measured == pytest.approx(by_mean)
    loss = max(
        median("adaptive", problem) / median("zosgd-tuned", problem)
        for problem in ("skew", "stretched")
    )
    assert claims["loss_to_tuned"].measured == pytest.approx(loss)
    assert claims["loss_to_tuned"].holds is None and claims["spsa_fails_somewhere"].holds is None
    rows = {row[0]: row[1:] for row in result.tables[0].rows}
    # The budget is too small for the two-stage algorithm.
    assert "two-stage" not in rows
    assert float(rows["adaptive"][0]) == pytest.approx(median("adaptive", "skew"), rel=0.01)


def test_a_run_that_is_cut_off_goes_on(tmp_path, small, monkeypatch):
    real, calls = baselines.measure, []

    def counting(*args, **kwargs):
        calls.append(args)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(baselines, "measure", counting)
    with pytest.raises(KeyboardInterrupt):
        baselines.run(context(tmp_path))
    first = len(calls)
    baselines.run(context(tmp_path))
    # Two methods were done.
    assert len(calls) - first == 3 * 5 * 2 - 6


def test_a_bad_method_is_found_out(tmp_path, small, monkeypatch):
    real = baselines.measure

    def worse(problem, method, **setting):
        row = real(problem, method, **setting)
        return row if method != "adaptive" else type(row)(**{**vars(row), "regret": 50.0})

    monkeypatch.setattr(baselines, "measure", worse)
    claims = {claim.name: claim for claim in baselines.run(context(tmp_path)).claims}
    for statistic in ("mean", "median"):
        assert claims[f"against_best_untuned_{statistic}"].holds is False
