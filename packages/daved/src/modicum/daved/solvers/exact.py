"""The optimum itself: a linear program for one query, a second-order cone program for more.

Takes a problem (a pool of rows and a buyer's queries) and gives optimal design weights. All rows
are in memory at once: for up to about 20,000 rows, and for checking other solvers. Prices come in
through rows that are scaled already; `Problem.costs`, `budget`, `owned` and `constant` are not
looked at.

Shapes: n rows, d features, m queries, r rank of the rows.
"""

from collections.abc import Callable

import numpy as np

from modicum.daved.design import directions, objective, pseudo_inverse
from modicum.daved.solvers.base import Design, Problem, Step

__all__ = ["Exact"]


class Exact:
    """Solve for the optimal weights: L* = (min Σ ‖A_j‖ such that X' A = Q' / √m)², w_j ∝ ‖A_j‖.

    One query is Elfving's problem, a linear program for SciPy's HiGHS; more need the extra
    ``socp`` (cvxpy with Clarabel).

    Notes
    -----
    G. Elfving, "Optimum allocation in linear regression theory", 1952, for the criterion of "DAVED:
    Data Acquisition via Experimental Design for Data Markets", Lu et al., NeurIPS 2024, arXiv
    2403.13893. Only what the rows span of the queries counts, as with a pseudo-inverse.
    """

    def solve(self, problem: Problem, on_step: Callable[[Step], None] | None = None) -> Design:
        """Find the optimum.

        Parameters
        ----------
        problem
            Rows and queries.
        on_step
            Never called: the programs have no iterations of this kind.

        Returns
        -------
        Design
            ``scores`` are those of the program's dual solution, at most L* and equal to it on the
            support; where fewer rows than the rank have weight, scores are not unique. ``gap`` is
            the objective minus the dual's lower bound. ``inverse`` gives these scores.

        Raises
        ------
        ImportError
            With more than one query when the extra ``socp`` is missing.
        RuntimeError
            When the program's solver does not find a solution.
        """
        map_dr = _whitening(problem.pool.gram(), problem.pool.n)
        rows_nr = problem.pool.products(map_dr)
        # Queries as combinations of the rows map like vectors of the dual space do: q = X' a.
        queries_mr = problem.queries_md @ map_dr
        if len(queries_mr) == 1:
            sizes_n, dual_rm = _one_query(rows_nr, queries_mr[0])
        else:
            sizes_n, dual_rm = _many_queries(rows_nr, queries_mr)
        weights_n = sizes_n / sizes_n.sum()
        return _design(rows_nr, queries_mr, map_dr, weights_n, dual_rm)


def _whitening(gram_dd: np.ndarray, n: int) -> np.ndarray:
    """Give a map (d, r) after which the rows' mean outer product is the identity."""
    basis_dr = pseudo_inverse(gram_dd).basis
    values_r = np.einsum("dr,de,er->r", basis_dr, gram_dd, basis_dr)
    return basis_dr * np.sqrt(n / values_r)


def _one_query(rows_nr: np.ndarray, query_r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give min Σ |a_j| such that X' a = q as (|a|, the dual solution (r, 1))."""
    from scipy.optimize import linprog

    found = linprog(
        np.ones(2 * len(rows_nr)),
        A_eq=np.hstack([rows_nr.T, -rows_nr.T]),
        b_eq=query_r,
        bounds=(0, None),
        method="highs",
    )
    if found.status != 0:
        raise RuntimeError(f"HiGHS found no optimum of the linear program: {found.message}")
    positive_n, negative_n = np.split(found.x, 2)
    return np.abs(positive_n - negative_n), found.eqlin.marginals[:, None]


def _many_queries(rows_nr: np.ndarray, queries_mr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give min Σ ‖A_j‖ such that X' A = Q' / √m as (norms, the dual solution (r, m))."""
    from modicum.daved.integrations.socp import least_sum_of_norms

    targets_rm = queries_mr.T / np.sqrt(len(queries_mr))
    found_nm, dual_rm = least_sum_of_norms(rows_nr, targets_rm)
    return np.linalg.norm(found_nm, axis=1), dual_rm


def _design(
    rows_nr: np.ndarray,
    queries_mr: np.ndarray,
    map_dr: np.ndarray,
    weights_n: np.ndarray,
    dual_rm: np.ndarray,
) -> Design:
    """Evaluate weights anew, and bound the optimum from below by the dual solution."""
    gram_rr = (rows_nr * weights_n[:, None]).T @ rows_nr
    inverse_rr = pseudo_inverse(gram_rr).matrix
    loss = objective(inverse_rr, queries_mr)
    # The dual solution need not be feasible to the last digit: divided by its largest norm it is.
    norms_n = np.linalg.norm(rows_nr @ dual_rm, axis=1)
    dual_rm = dual_rm / norms_n.max()
    bound = float(np.sum(dual_rm * queries_mr.T) / np.sqrt(len(queries_mr))) ** 2
    wanted_rm = np.sqrt(len(queries_mr) * bound) * dual_rm
    inverse_rr = _with_directions(gram_rr, queries_mr, wanted_rm)
    return Design(
        weights=weights_n,
        objective=loss,
        gap=max(loss - bound, 0.0),
        scores=np.square(rows_nr @ directions(inverse_rr, queries_mr)).mean(axis=1),
        inverse=map_dr @ inverse_rr @ map_dr.T,
        converged=True,
    )


def _with_directions(
    gram_rr: np.ndarray, queries_mr: np.ndarray, wanted_rm: np.ndarray
) -> np.ndarray:
    """Give an inverse of M on its span that, beyond the span, sends queries where the dual does.

    A design with fewer rows than the rank leaves directions without information. The limit of
    inverses of nearby regular matrices is not unique there; the dual solution chooses one under
    which no row outside the design has a score above the optimum.
    """
    inside = pseudo_inverse(gram_rr)
    beyond_rs = _complement(inside.basis)
    if beyond_rs.shape[1] == 0:
        return inside.matrix
    # Rows of `cross` map coordinates inside the span to coordinates beyond it.
    queries_mi = queries_mr @ inside.basis
    cross_si = (beyond_rs.T @ wanted_rm) @ np.linalg.pinv(queries_mi.T)
    gram_ii = inside.basis.T @ gram_rr @ inside.basis
    block = beyond_rs @ cross_si @ inside.basis.T
    corner = beyond_rs @ cross_si @ gram_ii @ cross_si.T @ beyond_rs.T
    return inside.matrix + block + block.T + corner


def _complement(basis_rk: np.ndarray) -> np.ndarray:
    """Give orthonormal columns of what a span lacks."""
    full_rr = np.linalg.qr(basis_rk, mode="complete")[0]
    return full_rr[:, basis_rk.shape[1] :]
