"""The water level spends the budget exactly, on NumPy and torch alike."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from modicum.umpwatermark.distortion import distort
from modicum.umpwatermark.theory import seq_gumbel_type2, ump_type2


def random_laws(seed, V, rows=4, concentration=0.3):
    rng = np.random.default_rng(seed)
    q = rng.dirichlet(np.full(V, concentration), rows)
    if V > 2:
        # The floor keeps mass in rows that had all of it on the token that becomes impossible.
        q += 1e-12
        q[:, rng.integers(V)] = 0
        q /= q.sum(axis=1, keepdims=True)
    return q


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    V=st.sampled_from([1, 2, 3, 10, 300]),
    epsilon=st.floats(0, 0.99),
    concentration=st.sampled_from([0.05, 0.3, 2.0]),
)
def test_budget_is_spent_exactly_and_only_on_possible_tokens(seed, V, epsilon, concentration):
    q = random_laws(seed, V, concentration=concentration)
    law, tv = distort(q, epsilon)
    flat = 1 / (q > 0).sum(axis=1)
    most = np.maximum(q - flat[:, None], 0).sum(axis=1)
    np.testing.assert_allclose(law.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(tv, np.minimum(epsilon, most), atol=1e-12)
    np.testing.assert_allclose(np.abs(law - q).sum(axis=1) / 2, tv, atol=1e-12)
    assert np.all(law[q == 0] == 0)
    # Order is kept, and what is not at the level is raised by one factor.
    order = np.argsort(-q, axis=1)
    assert np.all(np.diff(np.take_along_axis(law, order, 1), axis=1) <= 1e-15)
    for row in range(len(q)):
        free = (law[row] < law[row].max() * (1 - 1e-9)) & (q[row] > 0)
        if free.any():
            factors = law[row, free] / q[row, free]
            assert factors.min() >= 1 - 1e-12
            assert np.ptp(factors) <= 1e-9 * factors.max()


@pytest.mark.parametrize("epsilon", [0.01, 0.1, 0.3])
def test_water_level_is_where_exactly_epsilon_lies_above(epsilon):
    q = np.array([0.4, 0.3, 0.2, 0.06, 0.04])
    level = brentq(lambda c: np.maximum(q - c, 0).sum() - epsilon, 0, 1)
    law, _ = distort(q, epsilon)
    assert law.max() == pytest.approx(max(level, 0.2), abs=1e-12)


def test_worked_example():
    law, tv = distort([0.5, 0.3, 0.15, 0.05, 0.0], 0.1)
    # The level is .4; the .1 that lies above raises the other .5 to .6.
    np.testing.assert_allclose(law, [0.4, 0.36, 0.18, 0.06, 0.0], atol=1e-15)
    assert tv == pytest.approx(0.1, abs=1e-15)


def test_no_budget_changes_nothing():
    q = random_laws(0, 20)
    law, tv = distort(q, 0.0)
    np.testing.assert_allclose(law, q, rtol=1e-15)
    np.testing.assert_array_equal(tv, 0.0)


def test_a_certain_token_stays_certain():
    law, tv = distort([0.0, 1.0, 0.0], 0.5)
    np.testing.assert_array_equal(law, [0, 1, 0])
    assert tv == 0


def test_subnormal_probabilities_count_as_none():
    law, tv = distort([1.0, 1e-310], 0.3)
    np.testing.assert_allclose(law, [1.0, 0.0], atol=1e-300)
    assert tv < 1e-300


def test_every_unit_buys_one_unit_of_the_optimum_where_the_level_is_above_alpha():
    q, alpha = np.array([0.6, 0.3, 0.06, 0.04]), 0.2
    law, tv = distort(q, 0.15)
    assert ump_type2(law, alpha) < ump_type2(q, alpha)
    # Here the second token rises as well, above alpha, and takes its share back.
    assert ump_type2(law, alpha) >= ump_type2(q, alpha, 0.15) - 1e-15
    alone = np.array([0.9, *np.full(10, 0.01)])
    law, tv = distort(alone, 0.3)
    assert ump_type2(law, alpha) == pytest.approx(ump_type2(alone, alpha) - tv, abs=1e-14)
    assert seq_gumbel_type2(law, alpha) < seq_gumbel_type2(alone, alpha)


@pytest.mark.parametrize("epsilon", [0.0, 0.02, 0.3, 0.9])
@pytest.mark.parametrize("V", [1, 7, 1000])
def test_torch_gives_the_same(epsilon, V):
    q = random_laws(3, V, rows=6).reshape(2, 3, V)
    law, tv = distort(q, epsilon)
    law_t, tv_t = distort(torch.tensor(q), epsilon)
    assert law_t.dtype == torch.float64
    assert law.shape == q.shape
    assert tv.shape == tuple(tv_t.shape) == (2, 3)
    np.testing.assert_allclose(law_t.numpy(), law, atol=1e-14)
    np.testing.assert_allclose(tv_t.numpy(), tv, atol=1e-14)


def test_a_batch_of_whole_vocabularies():
    ranks = np.arange(1, 2**18 + 1)
    q = 1 / ranks ** np.array([[1.0], [1.5], [3.0]])
    q /= q.sum(axis=1, keepdims=True)
    law, tv = distort(q, 0.05)
    np.testing.assert_allclose(tv, 0.05, atol=1e-12)
    np.testing.assert_allclose(law.sum(axis=1), 1, atol=1e-12)


@pytest.mark.gpu
def test_device_gives_the_same():
    q = random_laws(4, 5000)
    law, tv = distort(q, 0.1)
    law_d, tv_d = distort(torch.tensor(q, device="cuda"), 0.1)
    assert law_d.device.type == "cuda"
    np.testing.assert_allclose(law_d.cpu().numpy(), law, atol=1e-13)
    np.testing.assert_allclose(tv_d.cpu().numpy(), tv, atol=1e-13)


@pytest.mark.parametrize("epsilon", [-0.1, 1.0, float("nan")])
def test_bad_budgets_are_refused(epsilon):
    with pytest.raises(ValueError, match="epsilon"):
        distort(np.array([0.5, 0.5]), epsilon)


def test_bad_laws_are_refused():
    with pytest.raises(ValueError, match="sum to 1"):
        distort(np.array([0.5, 0.4]), 0.1)
    with pytest.raises(ValueError, match="negative"):
        distort(torch.tensor([1.5, -0.5]), 0.1)
