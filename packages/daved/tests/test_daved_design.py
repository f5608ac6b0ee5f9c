import numpy as np
import pytest

from modicum.daved import design


@pytest.mark.parametrize(("d", "rank"), [(1, 1), (5, 5), (6, 2), (9, 0)])
def test_pseudo_inverse_is_numpys(d, rank):
    root = np.random.default_rng(d).normal(size=(d, rank))
    gram = root @ root.T
    found = design.pseudo_inverse(gram)
    assert found.rank == rank
    np.testing.assert_allclose(found.matrix, np.linalg.pinv(gram, rcond=1e-10), atol=1e-10)
    np.testing.assert_allclose(found.basis.T @ found.basis, np.eye(rank), atol=1e-12)


def test_objective_and_directions():
    rng = np.random.default_rng(0)
    root, queries = rng.normal(size=(4, 9)), rng.normal(size=(3, 4))
    inverse = np.linalg.inv(root @ root.T)
    expected = np.mean([q @ inverse @ q for q in queries])
    assert design.objective(inverse, queries) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(design.directions(inverse, queries)[:, 1], inverse @ queries[1])


def test_coverage_is_the_part_inside_the_span():
    basis = np.eye(3)[:, :2]
    queries = np.array([[3.0, 4, 0], [0, 0, 2], [1, 0, 1]])
    np.testing.assert_allclose(design.coverage(basis, queries), [1, 0, 0.5])


def test_the_smallest_index_among_equals():
    assert design.first_best(np.array([1.0, 3, 3 * (1 + 1e-15), 2])) == 1
    assert design.first_best(np.array([1.0, 3, 3 * (1 + 1e-9), 2])) == 2
    assert design.first_best(np.array([-1.0, -1.0])) == 0


def test_a_whitened_inverse_follows_as_an_inverse_from_scratch():
    rng = np.random.default_rng(2)
    root = rng.normal(size=(6, 4)) @ rng.normal(size=(4, 30))
    start, rows = root @ root.T, (root @ rng.normal(size=(30, 3))).T
    queries = rng.normal(size=(2, 6))
    found = design.WhitenedInverse(start, queries)
    information = start
    for row, step_size in zip(rows, [0.1, 0.7, 0.99], strict=True):
        before = np.linalg.pinv(information, rcond=1e-10)
        assert found.leverage(row) == pytest.approx(row @ before @ row)
        assert found.follow(row, step_size)
        information = (1 - step_size) * information + step_size * np.outer(row, row)
    expected = np.linalg.pinv(information, rcond=1e-10)
    np.testing.assert_allclose(found.matrix(), expected, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(found.directions(), expected @ queries.T, rtol=1e-7, atol=1e-12)
    assert found.loss() == pytest.approx(np.mean([q @ expected @ q for q in queries]))
    kept = found.matrix()
    found.rebuild(0.9 * 0.3 * 0.01, rows, np.array([0.1 * 0.3 * 0.01, 0.7 * 0.01, 0.99]))
    np.testing.assert_allclose(found.matrix(), kept, rtol=1e-9, atol=1e-13)


def test_what_float64_cannot_invert_is_refused():
    found = design.WhitenedInverse(np.eye(2), np.ones((1, 2)))
    for row in ([1.0, 1.0], [0.1, 0.7]):
        with pytest.raises(FloatingPointError, match=r"1.0e-17 of the weight"):
            found.rebuild(1e-17, np.array([row]), np.ones(1))
