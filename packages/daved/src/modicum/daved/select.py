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
from modicum.daved.features import make_features
from modicum.daved.reading import Place, Reader
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
    row_weight: Any = None,
    prior: float | None = None,
    reg_lambda: float = 0.0,
    ridge: str | None = None,
    features: Any = "identity",
    normalize: str = "none",
    max_norm: float | None = None,
    fit_intercept: bool = False,
    compat: str | None = None,
    random_state: int | np.random.Generator | None = None,
    device: Any = "auto",
    dtype: Any = "float32",
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
        ``"topk"``: by weight, then those that the solver never picked, by their score per price;
        ties that are left go to the smallest index. ``"sample"``: drawn without replacement in
        proportion to the weights. ``"greedy"``: greedy purchases among the records that the solver
        picked.
    fill
        Whether records that do not fit any more are skipped; else the first one ends the purchase.
    drop_floor
        Whether ``rounding="sample"`` draws records that were never picked after all others, as it
        does by default; ``"topk"`` always puts them last.
    unique
        Whether of equal rows only one is bought. It reads all rows into memory.
    repeat
        Whether ``"fw"`` may pick a record again.
    groups
        Group of each record, (n,). Without quotas groups are lots: all of a group or none of it.
    max_per_group, min_per_group
        Quotas: most and fewest records of every group, sold one by one.
    X_owned
        Rows that the buyer has, (o, d), of unit noise, on top of which records are bought: by
        ``"greedy"``, and by ``"fw"`` and ``"multiplicative"``, whose objective is then
        (1/m) Σ q' (X_owned' X_owned + Σ w_j x_j x_j')⁻¹ q. ``"fw"`` then takes up to 1024 features.
    noise_var
        Variance of each record's label noise relative to the others, (n,).
    row_weight
        Weight of each record, (n,), at least 0, as in a generalised linear model: the information
        of a record is row_weight x x'. Of a logistic model it is p (1 - p) with the probability p
        of a pilot model: `modicum.daved.features.logistic_row_weight`.
    prior
        Prior precision of greedy purchases; by default .05 times the rows' mean squared norm.
    reg_lambda
        Share λ in [0, 1) of a diagonal matrix R of the features' standard deviations in the
        information, (1 - λ) M + λ R.
    ridge
        ``"decay"``, and so None, for ``"fw"``: R is in the initial information only and its share
        shrinks with every step, as in the published code. ``"fixed"``, for ``"fw"`` with up to 1024
        features and ``"multiplicative"``: it stays, and objective, scores and certificate are those
        of (1 - λ) M(w) + λ R. The purchase then depends on the features' scales.
    features, normalize, max_norm, fit_intercept
        As for `modicum.daved.features.make_features`; fitted to the sellers' rows. Maps of rows of
        numbers see what `modicum.daved.frames.to_frame` reads, with columns matched by name; other
        maps and functions see the records as they are given.
    compat
        ``"reference"`` follows the published code: see `FrankWolfe`; prices by the paper's rule,
        ties by the largest index, spending below the budget up to the first that does not fit.
    random_state
        Seed of ``rounding="sample"``.
    device, dtype
        Where rows are scored. ``"auto"``: a tensor on another device than the CPU stays there;
        other rows go to a GPU where there is one with twice the memory that they need and they
        have at least 4,194,304 values; else NumPy scores them in float64. ``"cpu"``: NumPy in
        float64, for a tensor torch. ``"cuda"``, ``"cuda:1"`` or a ``torch.device``: there. What is
        not scored by NumPy is kept in `dtype`: ``"float32"``, ``"float64"``, ``"float16"`` or
        ``"bfloat16"``. Rows on another device are never copied to the CPU as a whole: `features`
        are refused for them.
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
    ImportError
        If a device is named that needs torch, and torch is missing.
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
        _reader(features, normalize, max_norm, fit_intercept, device, dtype),
        noise_var=noise_var,
        row_weight=row_weight,
        X_owned=X_owned,
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
        ridge=ridge,
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
    row_weight: Any = None,
    features: Any = "identity",
    normalize: str = "none",
    max_norm: float | None = None,
    fit_intercept: bool = False,
    device: Any = "auto",
    dtype: Any = "float32",
    chunk_size: int | None = None,
) -> np.ndarray:
    """Say what each record is worth to these queries.

    Parameters
    ----------
    X, Q, costs, tol, row_weight
        As for `select`.
    features, normalize, max_norm, fit_intercept, device, dtype, chunk_size
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
        _reader(features, normalize, max_norm, fit_intercept, device, dtype),
        row_weight=row_weight,
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


def _reader(
    features: Any,
    normalize: str,
    max_norm: float | None,
    fit_intercept: bool,
    device: Any,
    dtype: Any,
) -> Reader:
    shape: dict[str, Any] = {
        "normalize": normalize,
        "max_norm": max_norm,
        "fit_intercept": fit_intercept,
    }
    return Reader(make_features(features, **shape), Place(device, dtype))
