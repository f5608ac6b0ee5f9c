import pytest

pytest.importorskip("torch")

from modicum.core.experiment import Experiment, RunContext
from modicum.zeroth.experiments import device_batch
from modicum.zeroth.problems import synthetic_logistic


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(device_batch, "QUICK_DIMENSION", 8)
    monkeypatch.setattr(device_batch, "QUICK_BUDGET", 2000)
    monkeypatch.setattr(device_batch, "PARITY_BUDGET", 2000)


def run(tmp_path, device="cpu"):
    experiment = Experiment("device_batch", "modicum-zeroth", "t", "s", device_batch.run)
    return device_batch.run(RunContext(experiment, tmp_path, quick=True, seed=1, device=device))


def test_tensors_and_arrays_agree_and_regret_falls(tmp_path, small):
    result = run(tmp_path)
    claims = {claim.name: claim for claim in result.claims}
    assert claims["same_point"].holds and claims["same_point"].measured < 1e-12
    assert claims["regret_left"].measured < 0.5
    assert claims["seconds"].holds is None and claims["seconds"].measured > 0
    # The regret in the table is that of the point, computed anew.
    seed, budget, regret = result.tables[0].rows[0][:3]
    x, _, _ = device_batch.run_once(budget, seed, "cpu", 8)
    problem = synthetic_logistic(8, samples=500, regularization=0.05, rng=0)
    assert float(problem.regret(x)) == pytest.approx(regret, rel=1e-12)


def test_many_more_unknowns_than_pairs_leave_no_choice_to_rounding():
    # 1,326 unknowns of the Hessian and 58 pairs at first: the rest of the variance is a rounding
    # error, from which tensors and arrays once went different ways.
    in_numpy, _, _ = device_batch.run_once(4000, 0, None)
    in_tensors, _, _ = device_batch.run_once(4000, 0, "cpu")
    assert abs(in_numpy - in_tensors).max() < 1e-12


def test_runs_that_disagree_are_found_out(tmp_path, small, monkeypatch):
    real = device_batch.run_once

    def off(budget, seed, device, dimension):
        x, seconds, found = real(budget, seed, device, dimension)
        return (x + 1e-6 if device is None else x), seconds, found

    monkeypatch.setattr(device_batch, "run_once", off)
    claims = {claim.name: claim for claim in run(tmp_path).claims}
    assert claims["same_point"].holds is False


@pytest.mark.gpu
def test_runs_on_a_gpu(tmp_path, small):
    claims = {claim.name: claim for claim in run(tmp_path, "cuda").claims}
    assert claims["same_point"].holds
