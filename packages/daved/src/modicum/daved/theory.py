"""What the optimum says: prices, predicted errors, how far a design can be from the best one.

Takes numbers and small arrays that a design already has and gives closed forms. Nothing here looks
at rows or solves anything.

L is the design objective (1/m) Σ q' M(w)⁻¹ q at weights of sum 1, in units of label variance; at
weights that spend a budget B it is L / B. Source of all of it: "DAVED: Data Acquisition via
Experimental Design for Data Markets", Lu et al., NeurIPS 2024, arXiv 2403.13893, and the classical
equivalence theorem of optimal design.

Shapes: n rows, b budgets.
"""

import numpy as np

__all__ = [
    "budget_curve",
    "effective_sample_size",
    "efficiency",
    "fair_price",
    "predicted_error",
    "shadow_price",
    "support_bound",
    "validation_risk_bound",
]


def validation_risk_bound(sigma2: float, d: int, n_val: int) -> float:
    """Give the rate σ² d / v of the worst-case excess error of choosing by a validation set.

    Up to a constant factor no selection by the error on v labelled rows is better: it is the error
    of training on those rows and buying nothing.

    Parameters
    ----------
    sigma2
        Variance of the label noise.
    d
        Number of features.
    n_val
        Number of labelled validation rows.
    """
    return sigma2 * d / n_val


def budget_curve(objective: float, budgets: np.ndarray, sigma2: float = 1.0) -> np.ndarray:
    """Give the predicted excess error σ² L / B at every budget, (b,).

    Parameters
    ----------
    objective
        L at weights of sum 1; with prices, of rows divided by the root of their price.
    budgets
        (b,) in the currency of the prices; numbers of records where all prices are 1.
    sigma2
        Variance of the label noise.
    """
    return sigma2 * objective / np.asarray(budgets, dtype=np.float64)


def shadow_price(objective: float, budget: float) -> float:
    """Give by how much one more unit of currency lowers the optimum, -dL*(B)/dB = L / B².

    Parameters
    ----------
    objective
        L at weights of sum 1, at the optimum.
    budget
        B, in currency.
    """
    return objective / budget**2


def fair_price(
    scores_n: np.ndarray,
    budget: float,
    objective: float,
) -> np.ndarray:
    """Give the price up to which each record is worth buying, (n,), in currency.

    It is B g_j / L. At the optimum every record in the design costs its fair price and no record
    costs less than its own. At other weights the quotes are approximate.

    Parameters
    ----------
    scores_n
        g_j of records without their prices, (n,), at weights that spend the budget. A design for
        rows divided by the root of their price has weights of sum 1 and scores g_j / c_j instead:
        multiply those by the prices and take a budget of 1.
    budget
        B, in currency: what the weights spend.
    objective
        L at the same weights.
    """
    return budget * np.asarray(scores_n, dtype=np.float64) / objective


def efficiency(gap: float, objective: float) -> float:
    """Give 1 - R / L, at least 0: the optimum is at least this share of the objective.

    Parameters
    ----------
    gap
        Certificate R = max g_j - L.
    objective
        L at the same weights.
    """
    return max(1 - gap / objective, 0.0)


def effective_sample_size(weights_n: np.ndarray) -> float:
    """Give the number of rows over which the weights spread, 1 / Σ (w_j / Σ w)².

    Parameters
    ----------
    weights_n
        Nonnegative weights, (n,), not all 0, of any sum.
    """
    return float(weights_n.sum() ** 2 / np.square(weights_n).sum())


def predicted_error(sigma2: float, objective: float, k: int) -> float:
    """Give the predicted excess error σ² L / k of a model of k records bought by a design.

    Parameters
    ----------
    sigma2
        Variance of the label noise.
    objective
        L at weights of sum 1.
    k
        Number of records.
    """
    return sigma2 * objective / k


def support_bound(d: int, m: int) -> int:
    """Give how many records some optimal design needs at most: d for one query, else d (d + 1) / 2.

    Parameters
    ----------
    d
        Number of features.
    m
        Number of queries.
    """
    return d if m == 1 else d * (d + 1) // 2
