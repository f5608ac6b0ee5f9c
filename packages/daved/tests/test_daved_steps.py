import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from modicum.daved import steps


def loss_after(alpha, inverse, queries, row):
    """Compute the loss after a step from scratch."""
    moved = (1 - alpha) * np.linalg.inv(inverse) + alpha * np.outer(row, row)
    return np.einsum("md,de,me->", queries, np.linalg.inv(moved), queries) / len(queries)


def numbers_of(inverse, queries, row):
    loss = np.einsum("md,de,me->", queries, inverse, queries) / len(queries)
    return loss, np.square(queries @ inverse @ row).mean(), row @ inverse @ row


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(2, 6), st.floats(0.1, 6))
def test_line_search_finds_the_minimum(seed, m, d, length):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(d, 2 * d))
    inverse = np.linalg.inv(root @ root.T / d)
    queries, row = rng.normal(size=(m, d)), length * rng.normal(size=d)
    loss, score, leverage = numbers_of(inverse, queries, row)
    alpha = steps.line_search(loss, score, leverage)
    best = minimize_scalar(
        lambda a: loss_after(a, inverse, queries, row),
        bounds=(0, 0.999),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert loss_after(alpha, inverse, queries, row) <= best.fun * (1 + 1e-8)
    assert (alpha == 0) == (score <= loss)


def test_a_row_along_the_only_query():
    row = np.array([2.0, 0.0])
    loss, score, leverage = numbers_of(np.eye(2), np.array([[1.0, 0.0]]), row)
    assert steps.line_search(loss, score, leverage) == steps.ALPHA_MAX
    assert steps.line_search(loss, score, leverage, alpha_max=0.9) == 0.9
    # A shorter one only takes weight away from what is there.
    assert steps.line_search(*numbers_of(np.eye(2), np.array([[1.0, 0.0]]), row / 4)) == 0


def test_sequences():
    assert [steps.open_loop(1, 1, 1, t) for t in range(3)] == [2 / 3, 2 / 4, 2 / 5]
    assert [steps.herding(1, 1, 1, t) for t in range(3)] == [1 / 2, 1 / 3, 1 / 4]
    assert steps.step_rule(0.25)(1, 1, 1, 7) == 0.25


@pytest.mark.parametrize("step", [0.0, 1.0, -1, math.nan, math.inf, "newton"])
def test_bad_rules_are_named(step):
    with pytest.raises(ValueError, match=str(step)):
        steps.step_rule(step)
