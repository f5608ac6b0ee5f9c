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
