import numpy as np
import pytest
import torch

from modicum.daved.pool import ArrayPool, Pool
from modicum.daved.solvers.base import Problem
from modicum.daved.solvers.frank_wolfe import FrankWolfe
from modicum.daved.torch_pool import TorchPool


def data(n=41, d=5, m=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.uniform(0.5, 2, n), rng.normal(size=(d, m))


def check_answers(device, dtype, rtol):
    rows, scale, columns = data()
    rows = torch.from_numpy(rows).to(getattr(torch, dtype)).double().numpy()
    weights = np.random.default_rng(1).uniform(size=len(rows))
    for factor in (None, scale):
        expected = ArrayPool(rows, factor)
        for shards, chunk in ((rows, None), ([rows[:7], rows[7:]], 4), (torch.tensor(rows), 6)):
            pool = TorchPool(shards, factor, device=device, dtype=dtype, chunk_size=chunk)
            assert isinstance(pool, Pool)
            assert pool.rows_nd.device.type == device
            for found, true in (
                (pool.scores(columns), expected.scores(columns)),
                (
                    pool.grouped_scores(columns, [1, 2]),
                    expected.grouped_scores(columns, [1, 2]),
                ),
                (pool.products(columns), expected.products(columns)),
            ):
                assert found.dtype == np.float64
                np.testing.assert_allclose(found, true, rtol=rtol, atol=rtol)
            np.testing.assert_allclose(pool.gram(), expected.gram(), rtol=1e-12)
            np.testing.assert_allclose(pool.gram(weights), expected.gram(weights), rtol=1e-12)
            np.testing.assert_allclose(pool.rows([40, 0, 7]), expected.rows([40, 0, 7]), rtol=1e-15)


TOLERANCES = [("float64", 1e-12), ("float32", 1e-5), ("float16", 1e-5), ("bfloat16", 1e-5)]


@pytest.mark.parametrize(("dtype", "rtol"), TOLERANCES)
def test_answers_are_those_of_an_array(dtype, rtol):
    check_answers("cpu", dtype, rtol)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "rtol"), TOLERANCES)
def test_answers_on_a_device_are_those_of_an_array(dtype, rtol):
    check_answers("cuda", dtype, rtol)


def check_picks(device):
    rows, scale, columns = data(n=3000, d=16, m=2)
    solver = FrankWolfe(max_iter=20, tol=0)
    expected = solver.solve(Problem(ArrayPool(rows, scale[:3000]), columns.T))
    pool = TorchPool(rows, scale, device=device)
    found = solver.solve(Problem(pool, columns.T))
    np.testing.assert_array_equal(found.picks, expected.picks)
    assert found.objective == pytest.approx(expected.objective, rel=1e-5)


def test_float32_picks_what_float64_picks():
    check_picks("cpu")


@pytest.mark.gpu
def test_float32_on_a_device_picks_what_float64_picks():
    check_picks("cuda")


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_features_of_any_size_stay_within_float32(scale):
    rows, _, columns = data()
    found = TorchPool(rows).scores(columns * scale)
    np.testing.assert_allclose(found, ArrayPool(rows).scores(columns * scale), rtol=1e-5)


def test_a_tensor_of_the_right_type_is_not_copied():
    rows = torch.randn(6, 2, requires_grad=True)
    assert TorchPool(rows).rows_nd.data_ptr() == rows.data_ptr()
    assert not TorchPool(rows).rows_nd.requires_grad


def test_a_read_only_memory_map(tmp_path):
    rows, _, columns = data()
    np.save(tmp_path / "rows.npy", rows)
    pool = TorchPool(np.load(tmp_path / "rows.npy", mmap_mode="r"), dtype="float64")
    np.testing.assert_allclose(pool.products(columns), rows @ columns, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["int32", "float31", "nn"])
def test_types_that_are_no_floating_point_types(dtype):
    with pytest.raises(ValueError, match=f"'{dtype}'"):
        TorchPool(np.ones((2, 2)), dtype=dtype)
