import numpy as np
import pytest

from modicum.daved.pool import (
    ArrayPool,
    Pool,
    ScaledPool,
    SubsetPool,
    as_pool,
    grouped_scores,
    unscaled,
)


def data(n=23, d=4, m=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.uniform(0.5, 2, n), rng.normal(size=(d, m))


def pools(rows, scale, tmp_path):
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    yield ArrayPool(rows, scale)
    yield ArrayPool(mapped, scale, chunk_size=5)
    yield ArrayPool([rows[:1], mapped[1:9], rows[9:]], scale, chunk_size=3)


@pytest.mark.parametrize("is_scaled", [False, True])
def test_answers_are_those_of_the_whole_scaled_array(tmp_path, is_scaled):
    rows, scale, columns = data()
    weights = np.random.default_rng(5).uniform(size=len(rows))
    whole = rows * scale[:, None] if is_scaled else rows
    for pool in pools(rows, scale if is_scaled else None, tmp_path):
        assert (pool.n, pool.d) == rows.shape
        squares = np.square(whole @ columns)
        np.testing.assert_allclose(pool.scores(columns), squares.mean(axis=1), rtol=1e-12)
        np.testing.assert_allclose(pool.products(columns), whole @ columns, rtol=1e-12)
        np.testing.assert_allclose(pool.gram(), whole.T @ whole, rtol=1e-12)
        expected = whole.T @ np.diag(weights) @ whole
        np.testing.assert_allclose(pool.gram(weights), expected, rtol=1e-12)
        asked = [22, 0, 9, 8, 0, 1]
        np.testing.assert_array_equal(pool.rows(asked), whole[asked])
        assert pool.rows([]).shape == (0, 4)


@pytest.mark.parametrize("sizes", [[3], [1, 1, 1], [1, 2], [2, 1]])
def test_scores_of_groups_are_those_of_each(tmp_path, sizes):
    rows, scale, columns = data()
    for pool in pools(rows, scale, tmp_path):
        found = pool.grouped_scores(columns, sizes)
        parts = np.split(columns, np.cumsum(sizes)[:-1], axis=1)
        expected = np.stack([pool.scores(part) for part in parts])
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.int8, bool])
def test_other_types_are_computed_with_in_float64(dtype):
    rows = (np.random.default_rng(0).normal(size=(30, 3)) * 3).astype(dtype)
    pool = ArrayPool(rows)
    assert pool.gram().dtype == pool.rows([0]).dtype == np.float64
    np.testing.assert_array_equal(pool.gram(), rows.astype(float).T @ rows.astype(float))


def test_a_pool_is_made_once():
    rows, scale, _ = data()
    pool = as_pool(rows, scale)
    assert isinstance(pool, Pool)
    assert as_pool(pool) is pool
    with pytest.raises(ValueError, match="scales its rows itself"):
        as_pool(pool, scale)


def test_some_rows_answer_as_an_array_of_them():
    rows, scale, columns = data()
    kept = np.array([2, 3, 7, 11, 22, 5])
    found, expected = SubsetPool(ArrayPool(rows, scale), kept), ArrayPool(rows[kept], scale[kept])
    assert isinstance(found, Pool)
    assert (found.n, found.d) == (6, 4)
    weights = np.random.default_rng(0).uniform(size=6)
    for given, true in (
        (found.scores(columns), expected.scores(columns)),
        (found.products(columns), expected.products(columns)),
        (found.gram(), expected.gram()),
        (found.gram(weights), expected.gram(weights)),
        (found.rows([5, 0, 0]), expected.rows([5, 0, 0])),
    ):
        np.testing.assert_allclose(given, true, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("sizes", [[3], [1, 2]])
def test_groups_are_scored_through_scales_and_by_pools_that_know_none(sizes):
    rows, scale, columns = data()
    expected = ArrayPool(rows * scale[:, None] ** 2).grouped_scores(columns, sizes)
    twice = ScaledPool(ScaledPool(ArrayPool(rows), scale), scale)
    np.testing.assert_allclose(grouped_scores(twice, columns, sizes), expected, rtol=1e-12)
    every = np.arange(len(rows))
    one_by_one = ScaledPool(SubsetPool(ArrayPool(rows, scale), every), scale)
    np.testing.assert_allclose(grouped_scores(one_by_one, columns, sizes), expected, rtol=1e-12)


def test_scales_are_taken_off():
    rows, scale, _ = data()
    pool = ArrayPool(rows)
    assert unscaled(pool) == (pool, None)
    found, product = unscaled(ScaledPool(ScaledPool(pool, scale), scale))
    assert found is pool
    np.testing.assert_allclose(product, scale**2)
