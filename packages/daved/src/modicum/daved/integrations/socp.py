"""The second-order cone program of an optimal design, solved by cvxpy with Clarabel.

Takes dense float64 arrays and gives dense float64 arrays; knows of no pools, prices or weights.
cvxpy is imported on the first call.

Shapes: n rows, r features, m queries.
"""

import warnings

import numpy as np

__all__ = ["least_sum_of_norms"]

ACCURACY, ACCEPTED = 1e-11, 1e-8
"""Tolerances for residuals and duality gap that Clarabel tries to reach, and that are enough.

Its own are 1e-8, which leave the weights, unlike the optimum, with five digits only."""


def least_sum_of_norms(
    rows_nr: np.ndarray, targets_rm: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Minimise Σ_j ‖A_j‖ such that X' A = T.

    Parameters
    ----------
    rows_nr
        X, (n, r) float64, of rank r.
    targets_rm
        T, (r, m) float64.

    Returns
    -------
    found_nm : ndarray
        A, (n, m).
    dual_rm : ndarray
        Θ, (r, m): ‖Θ' x_j‖ ≤ 1 for all j, with Σ Θ ∘ T the optimum.

    Raises
    ------
    ImportError
        When cvxpy, which brings Clarabel, is missing.
    RuntimeError
        When Clarabel does not find an optimum.
    """
    try:
        import cvxpy
    except ImportError as error:
        raise ImportError(
            "the exact solver with more than one query needs cvxpy and Clarabel: "
            'pip install "modicum-daved[socp]"'
        ) from error
    unknown = cvxpy.Variable((len(rows_nr), targets_rm.shape[1]))
    meets = rows_nr.T @ unknown == targets_rm
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum(cvxpy.norm(unknown, 2, axis=1))), [meets])
    with warnings.catch_warnings():
        # What is enough for us is "inaccurate" to cvxpy.
        warnings.filterwarnings("ignore", message="Solution may be inaccurate")
        problem.solve(solver=cvxpy.CLARABEL, **_tolerances())
    if problem.status not in (cvxpy.OPTIMAL, cvxpy.OPTIMAL_INACCURATE):
        raise RuntimeError(f"Clarabel found no optimum of the cone program: {problem.status}")
    found_nm, dual_rm = np.asarray(unknown.value), np.asarray(meets.dual_value)
    # Libraries differ in the sign of an equality's dual; the optimum is positive.
    return found_nm, dual_rm * np.sign(np.sum(dual_rm * targets_rm))


def _tolerances() -> dict[str, float]:
    names = ("tol_gap_abs", "tol_gap_rel", "tol_feas")
    wanted = dict.fromkeys(names, ACCURACY)
    return wanted | {f"reduced_{name}": ACCEPTED for name in names}
