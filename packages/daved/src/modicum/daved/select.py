"""The selection as one call: rows, queries, a budget and prices in, a purchase out.

`select` says what to buy, `score` only what each record is worth. The steps are those of
`modicum.daved.acquisition`; the estimator `modicum.daved.estimator.DAVED` keeps a design for many
budgets.

Shapes: n rows of sellers, d features, m queries.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from modicum.daved import validation
from modicum.daved.acquisition import (
    SOLVERS,
    STEPS_WITHOUT_A_BUDGET,
    Settings,
    buy_lots,
    buy_records,
    in_budget,
    prepare,
    rules_of,
    solve,
)
from modicum.daved.design import directions, pseudo_inverse
from modicum.daved.selection import Selection
from modicum.daved.solvers.base import Step

__all__ = ["score", "select"]


def select(
    X: Any,
    Q: Any,
    budget: float,
    *,
    costs: Any = None,
    solver: str = "fw",
    step: str | float = "line_search",
    max_iter: int | str = "auto",
    tol: float = 1e-3,
    cost_mode: str = "exact",
    rounding: str = "topk",
    fill: bool = True,
    drop_floor: bool | None = None,
    unique: bool = False,
    repeat: bool = True,
    groups: Any = None,
    max_per_group: int | None = None,
    min_per_group: int | None = None,
    X_owned: Any = None,
    noise_var: Any = None,
    prior: float | None = None,
    reg_lambda: float = 0.0,
    features: Any = "identity",
    normalize: str = "none",
    max_norm: float | None = None,
    fit_intercept: bool = False,
    compat: str | None = None,
    random_state: int | np.random.Generator | None = None,
    chunk_size: int | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Selection:
    """Choose which records to buy so that a linear model of them predicts the queries well.

    Parameters
    ----------
    X
        Sellers' rows, (n, d): an array, memory map, frame, tensor, a list of shards, or a `Pool`,
        whose rows are taken as they are.
    Q
        Buyer's unlabelled queries, (m, d).
    budget
        What may be spent, in the currency of `costs`; with prices of 1 the number of records.
    costs
        Price of each record, (n,), positive; 1 each by default. Each record of a lot carries the
        price of the whole lot.
    solver
        ``"fw"``, ``"one_step"``, ``"greedy"``, ``"multiplicative"`` or ``"exact"``; lots are chosen
        by ``"fw"``, ``"greedy"`` or ``"multiplicative"``.
    step
        Step rule of ``"fw"``: ``"line_search"``, ``"open_loop"``, ``"herding"`` (which buys in the
        order of picks) or a fixed size.
    max_iter
        Most iterations. ``"auto"``: twice the records that the budget buys at the median price,
        between 20 and 500; 100 for ``"multiplicative"``.
    tol
        Stop when the certificate is below this share of the objective.
    cost_mode
        ``"exact"`` optimises over weights that spend the budget; ``"paper"``, for ``"fw"``, divides
        scores by prices and searches steps as if there were none: where prices differ, a line
        search then stops away from the optimum.
    rounding
        ``"topk"``: by weight, ties by the smallest index; ``"sample"``: drawn without replacement
        in proportion to the weights; ``"greedy"``: greedy purchases among the records that the
        solver picked.
    fill
        Whether records that do not fit any more are skipped; else the first one ends the purchase.
    drop_floor
        Whether records that were never picked come after all others. By default only in
        ``rounding="sample"``; by weight they come last anyway where prices are equal.
    unique
        Whether of equal rows only one is bought.
    repeat
        Whether ``"fw"`` may pick a record again.
    groups
        Group of each record, (n,). Without quotas groups are lots: all of a group or none of it.
    max_per_group, min_per_group
        Quotas: most and fewest records of every group, sold one by one.
    X_owned
        Rows that the buyer has, (o, d); for greedy purchases.
    noise_var
        Variance of each record's label noise relative to the others, (n,).
    prior
        Prior precision of greedy purchases; by default .05 times the rows' mean squared norm.
    reg_lambda
        Share λ in [0, 1) of a diagonal matrix of the features' standard deviations in the initial
        information of ``"fw"``, which decays with every step.
    features, normalize, max_norm, fit_intercept
        As for `modicum.daved.features.make_features`; fitted to the sellers' rows.
    compat
        ``"reference"`` follows the published code: see `FrankWolfe`; prices by the paper's rule,
        ties by the largest index, spending below the budget up to the first that does not fit.
    random_state
        Seed of ``rounding="sample"``.
    chunk_size
        Rows that are read at once.
    on_step
        Called with every iteration.

    Returns
    -------
    Selection
        In the unit of weights that spend the budget.

    Raises
    ------
    ValueError
        If an argument is not valid; the message names it.
    InfeasibleBudgetError
        If nothing is affordable, or the budget does not buy the fewest records of every group.

    Warns
    -----
    DAVEDWarning
        Where data or settings make a selection worse than it looks.

    Notes
    -----
    Source: "DAVED: Data Acquisition via Experimental Design for Data Markets", Lu et al.,
    NeurIPS 2024, arXiv 2403.13893.

    Examples
    --------
    >>> import numpy as np
    >>> rows = np.random.default_rng(0).normal(size=(50, 3))
    >>> len(select(rows, np.array([[1.0, 0.0, 0.0]]), budget=4, solver="greedy"))
    4
    """
    offer = prepare(
        X,
        Q,
        costs,
        noise_var=noise_var,
        X_owned=X_owned,
        features=features,
        normalize=normalize,
        max_norm=max_norm,
        fit_intercept=fit_intercept,
        chunk_size=chunk_size,
    )
    settings = Settings(
        solver=solver,
        step=step,
        max_iter=max_iter,
        tol=tol,
        cost_mode="paper" if compat == "reference" else cost_mode,
        rounding=rounding,
        drop_floor=rounding == "sample" if drop_floor is None else drop_floor,
        repeat=repeat,
        prior=prior,
        reg_lambda=reg_lambda,
        compat=compat,
    )
    settings.check(offer)
    quotas = max_per_group is not None or min_per_group is not None
    rng = np.random.default_rng(random_state)
    if groups is not None and not quotas:
        return buy_lots(offer, settings, budget, groups, fill, unique, rng, on_step)
    rules = rules_of(offer, groups, max_per_group, min_per_group, fill, unique, compat)
    budget = validation.check_budget(budget, offer.prices_n)
    return buy_records(offer, settings, budget, rules, rng, on_step)


def score(
    X: Any,
    Q: Any,
    *,
    costs: Any = None,
    solver: str = "one_step",
    max_iter: int = STEPS_WITHOUT_A_BUDGET,
    tol: float = 1e-3,
    features: Any = "identity",
    normalize: str = "none",
    max_norm: float | None = None,
    fit_intercept: bool = False,
    chunk_size: int | None = None,
) -> np.ndarray:
    """Say what each record is worth to these queries.

    Parameters
    ----------
    X, Q, costs, tol, features, normalize, max_norm, fit_intercept, chunk_size
        As for `select`.
    solver
        Whose design the scores belong to: ``"one_step"``, ``"fw"``, ``"multiplicative"`` or
        ``"exact"``.
    max_iter
        Most iterations.

    Returns
    -------
    numpy.ndarray
        -∂L/∂w_j, (n,) float64, divided by the price where there are prices. Of ``"one_step"`` they
        are at weights of 1 each and sum, without prices, to the mean of q' (X'X)⁺ q; of the others
        at weights that spend one unit of currency.
    """
    offer = prepare(
        X,
        Q,
        costs,
        features=features,
        normalize=normalize,
        max_norm=max_norm,
        fit_intercept=fit_intercept,
        chunk_size=chunk_size,
    )
    validation.check_one_of("solver", solver, [name for name in SOLVERS if name != "greedy"])
    settings = Settings(solver=solver, max_iter=max_iter, tol=tol)
    settings.check(offer)
    if solver == "one_step":
        inverse_dd = pseudo_inverse(offer.pool.gram()).matrix
        scores_n = offer.pool.scores(directions(inverse_dd, offer.queries_md))
    else:
        design, is_priced = solve(offer, settings, 1.0, None)
        scores_n = in_budget(design, offer.prices_n, 1.0, is_priced).scores
    return scores_n if costs is None else scores_n / offer.prices_n
