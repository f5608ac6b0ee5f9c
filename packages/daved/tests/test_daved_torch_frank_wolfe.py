"""The loop on the device against the loop on the host, here on the CPU and where there is a GPU."""

import math
from functools import cache

import numpy as np
import pytest
import torch

from modicum.daved import torch_frank_wolfe
from modicum.daved.batch import batch_select, frank_wolfe_many
from modicum.daved.pool import ArrayPool, ScaledPool
from modicum.daved.select import select
from modicum.daved.solvers.frank_wolfe import FrankWolfe
from modicum.daved.steps import line_search
from modicum.daved.torch_frank_wolfe import (
    DeviceRuns,
    frank_wolfe_on_device,
    line_search_of,
    supports,
)
from modicum.daved.torch_pool import TorchPool

SIZES = (1, 3, 2, 1)


def market(seed=0, n=500, d=12, sizes=SIZES):
    rng = np.random.default_rng(seed)
    rows, prices = rng.normal(size=(n, d)), rng.uniform(1, 5, n)
    return rows, prices, [rng.normal(size=(m, d)) for m in sizes]


def assert_same(found, expected, rtol=1e-9):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.picks, other.picks)
        np.testing.assert_allclose(one.weights, other.weights, rtol=rtol)
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-6, atol=1e-9)
        largest = np.abs(other.inverse).max()
        np.testing.assert_allclose(one.inverse, other.inverse, rtol=0, atol=1e-8 * largest)
        assert one.objective == pytest.approx(other.objective, rel=rtol)
        assert one.floor == pytest.approx(other.floor, rel=rtol)
        assert one.converged == other.converged
        assert [step.pick for step in one.history] == other.picks.tolist()
        for name in ("objective", "gap", "step_size"):
            np.testing.assert_allclose(
                [getattr(step, name) for step in one.history],
                [getattr(step, name) for step in other.history],
                rtol=1e-7,
                atol=1e-9 * one.history[0].objective,
            )


def pools(rows, prices, device, dtype, layers):
    """Give the same priced rows as an array and as a tensor, with the scale in some places."""
    root = 1 / np.sqrt(prices)
    host = ScaledPool(ArrayPool(rows), root)
    if layers == 0:
        return host, TorchPool(rows, root, device=device, dtype=dtype)
    inner = TorchPool(rows, root**2 if layers == 2 else None, device=device, dtype=dtype)
    return host, ScaledPool(inner, 1 / root if layers == 2 else root)


def check_host(device, dtype, seed, step, max_iter, layers=1):
    rows, prices, queries = market(seed)
    host, there = pools(rows, prices, device, dtype, layers)
    solvers = [FrankWolfe(step, max_iter, 1e-3, refresh=37)] * len(queries)
    expected = frank_wolfe_many(host, queries, solvers)
    assert_same(frank_wolfe_on_device(there, queries, solvers), expected)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("step", ["line_search", "herding", "open_loop", 0.1])
@pytest.mark.parametrize("max_iter", [20, 150])
def test_designs_are_those_of_the_host_in_double(seed, step, max_iter):
    check_host("cpu", "float64", seed, step, max_iter, layers=seed % 3)


@pytest.mark.gpu
@pytest.mark.parametrize("step", ["line_search", "herding"])
@pytest.mark.parametrize("max_iter", [20, 150])
def test_designs_are_those_of_the_host_in_double_on_the_device(step, max_iter):
    check_host("cuda", "float64", 0, step, max_iter)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_lower_precision_only_finds_candidates(seed, dtype):
    """Picks and weights are those of float64 on the rounded rows."""
    rows, prices, queries = market(seed)
    rows = torch.from_numpy(rows).to(getattr(torch, dtype)).double().numpy()
    host, there = pools(rows, prices, "cpu", dtype, 1)
    solvers = [FrankWolfe(max_iter=20, tol=0)] * len(queries)
    found = frank_wolfe_on_device(there, queries, solvers)
    for one, other in zip(found, frank_wolfe_many(host, queries, solvers), strict=True):
        np.testing.assert_array_equal(one.picks, other.picks)
        np.testing.assert_allclose(one.weights, other.weights, rtol=1e-9)
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-4, atol=1e-4)


def test_single_precision_picks_what_double_picks_where_many_rows_nearly_tie():
    """Rows that differ by 1e-6 of their length are told apart, which float32 alone cannot."""
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.normal(size=(10, 6)), 200, axis=0).astype(np.float32)
    rows *= 1 + 1e-6 * rng.random((2000, 1)).astype(np.float32)
    rows = rng.permuted(rows, axis=0).astype(np.float64)
    queries = [rng.normal(size=(1, 6)) for _ in range(5)]
    solvers = [FrankWolfe(max_iter=6, tol=0)] * 5
    expected = frank_wolfe_many(ArrayPool(rows), queries, solvers)
    found = frank_wolfe_on_device(TorchPool(rows), queries, solvers)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.picks, other.picks)


@cache
def truth(dtype, max_iter):
    rows, prices, queries = market(1, n=8000, d=48, sizes=[1, 2, 5] * 3)
    rows = torch.from_numpy(rows).to(getattr(torch, dtype)).double().numpy()
    solvers = [FrankWolfe(max_iter=max_iter, tol=0)] * len(queries)
    host = ScaledPool(ArrayPool(rows), 1 / np.sqrt(prices))
    return rows, prices, queries, solvers, frank_wolfe_many(host, queries, solvers)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("max_iter", [20, 120])
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_picks_on_the_device_are_those_of_the_host(backend, dtype, max_iter):
    """Of rows in half precision the rounded ones count; many steps are captured."""
    rows, prices, queries, solvers, expected = truth(dtype, max_iter)
    _, there = pools(rows, prices, "cuda", dtype, 1)
    found = frank_wolfe_on_device(there, queries, solvers, backend=backend)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.picks[:20], other.picks[:20])
        assert one.objective == pytest.approx(other.objective, rel=1e-6)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_steps_do_not_wait_for_the_device(backend):
    rows, prices, queries = market(2, n=3000)
    _, there = pools(rows, prices, "cuda", "float32", 1)
    solvers = [FrankWolfe(max_iter=40, tol=0)] * len(queries)
    runs = DeviceRuns(there, queries, solvers, backend=backend, capture=None)
    runs.advance(2)
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        runs.advance(10)
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert (runs.done_g == 12).all()


@pytest.mark.gpu
def test_captured_steps_are_those_that_are_not():
    rows, prices, queries = market(2, n=3000)
    _, there = pools(rows, prices, "cuda", "float32", 1)
    solvers = [FrankWolfe(max_iter=100, tol=0, refresh=30)] * len(queries)
    found = []
    for capture in (1, None):
        runs = DeviceRuns(there, queries, solvers, capture=capture)
        runs.run()
        assert (runs.graph is not None) == (capture is not None)
        found.append(runs.designs())
    assert_same(*found, rtol=1e-12)


@pytest.mark.gpu
def test_a_selection_on_the_device_is_that_on_the_host():
    rows, prices, queries = market(3, n=4000)
    options = {"costs": prices, "normalize": "l2"}
    found = batch_select(rows, queries, 20.0, device="cuda", **options)
    for sale, own in zip(found, queries, strict=True):
        alone = select(rows, own, 20.0, device="cpu", **options)
        np.testing.assert_array_equal(sale.indices, alone.indices)
        np.testing.assert_allclose(sale.weights, alone.weights, rtol=1e-6)


def test_buyers_with_settings_of_their_own():
    rows, prices, queries = market(5)
    host, there = pools(rows, prices, "cpu", "float64", 1)
    solvers = [
        FrankWolfe(max_iter=1),
        FrankWolfe("herding", 45, tol=0, refresh=0),
        FrankWolfe(0.2, 30, tol=0.5),
        FrankWolfe(max_iter=60, tol=1e-4),
    ]
    seen = []
    found = frank_wolfe_on_device(there, queries, solvers, on_round=lambda *at: seen.append(at))
    assert_same(found, frank_wolfe_many(host, queries, solvers))
    assert seen[0] == (0, 4)
    assert [number for number, _ in seen] == sorted({number for number, _ in seen})
    assert seen[-1][1] <= 2


def test_a_regulariser_that_decays():
    rows, _, queries = market(6)
    solver = FrankWolfe(max_iter=30, regulariser=np.eye(12), reg_lambda=0.3)
    expected = frank_wolfe_many(ArrayPool(rows), queries, solver)
    found = frank_wolfe_on_device(TorchPool(rows, dtype="float64"), queries, [solver] * 4)
    assert_same(found, expected)


def test_rows_that_do_not_span_all_features():
    rows, prices, queries = market(7)
    rows[:, 5:] = rows[:, :5] @ np.random.default_rng(0).normal(size=(5, 7))
    queries = [own @ rows[:12].T @ rows[:12] for own in queries]
    host, there = pools(rows, prices, "cpu", "float64", 1)
    solvers = [FrankWolfe(max_iter=40, tol=0)] * 4
    found = frank_wolfe_on_device(there, queries, solvers)
    for one, other in zip(found, frank_wolfe_many(host, queries, solvers), strict=True):
        np.testing.assert_array_equal(one.picks, other.picks)
        np.testing.assert_allclose(one.weights, other.weights, rtol=1e-7)


def test_a_buyer_whose_inverse_cannot_be_followed_waits_for_a_refresh(monkeypatch):
    """Every step is refused once; each buyer still gets what it would get otherwise."""
    rows, prices, queries = market(8)
    host, there = pools(rows, prices, "cpu", "float64", 1)
    solvers = [FrankWolfe(max_iter=12, tol=0)] * 4
    follow, refused = DeviceRuns._follow, []

    def refuse(self, column_gr, leverage_g, alpha_g, moves_g):
        if moves_g.any():
            refused.append(int(moves_g.sum()))
        follow(self, column_gr, torch.full_like(leverage_g, -torch.inf), alpha_g, moves_g)

    monkeypatch.setattr(DeviceRuns, "_follow", refuse)
    found = frank_wolfe_on_device(there, queries, solvers)
    assert refused == [4] * 12
    assert_same(found, frank_wolfe_many(host, queries, solvers))


def test_what_cannot_be_inverted_is_said():
    rows, _, queries = market(9)
    runs = DeviceRuns(TorchPool(rows, dtype="float64"), queries, [FrankWolfe(max_iter=3)] * 4)
    runs.run()
    runs.rows_gtr[2, 0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="of buyer 2 cannot be inverted"):
        runs.refresh()


@pytest.mark.parametrize("seed", range(3))
def test_line_search_of_many_is_that_of_each(seed):
    rng = np.random.default_rng(seed)
    loss, leverage = rng.uniform(0.1, 3, 500), rng.uniform(0.1, 30, 500)
    score = loss * leverage * rng.uniform(0, 1, 500)
    # Both parallel, one of them short; and no descent.
    score[:3], leverage[:3] = (6.0, 0.5, 1.0), (3.0, 0.25, 5.0)
    loss[:3] = 2.0
    found = line_search_of(*(torch.from_numpy(part) for part in (loss, score, leverage)))
    expected = [line_search(*values) for values in zip(loss, score, leverage, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert expected[0] == 0.999
    assert expected[1] == expected[2] == 0
    assert math.isclose(found.min(), 0)


def test_what_it_does_not_know_goes_through_the_host():
    rows, _, _ = market()
    there = ScaledPool(TorchPool(rows), np.ones(500))
    assert supports(there, [FrankWolfe(), FrankWolfe("herding")])
    assert not supports(ArrayPool(rows), [FrankWolfe()])
    assert not supports(there, [FrankWolfe(), FrankWolfe(repeat=False)])
    assert not supports(there, [FrankWolfe(compat="reference")])


def test_scores_come_in_parts(monkeypatch):
    monkeypatch.setattr(torch_frank_wolfe, "_SCORES_AT_ONCE", 1000)
    check_host("cpu", "float64", 0, "line_search", 5)
