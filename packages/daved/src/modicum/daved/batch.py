"""Many buyers at once on one pool, each with its own queries and budget.

`batch_select` is `modicum.daved.select.select` for a list of buyers; `frank_wolfe_many` finds the
designs. The buyers share every pass over the rows, which turns products with a few columns into one
with many. Buyers never see each other: each has its own design, and ends on its own. What one
buys stays there for the others unless it is sold exclusively.

Shapes: n rows, d features, k columns of all buyers, g buyers, m queries of a buyer.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from modicum.daved import validation
from modicum.daved.acquisition import (
    Offer,
    Settings,
    buy_lots,
    buy_records,
    in_budget,
    prepare,
    rank,
    rules_of,
    solver_by_name,
    warn_of_run,
    weighted_selection,
)
from modicum.daved.design import coverage, pseudo_inverse
from modicum.daved.errors import InfeasibleBudgetError
from modicum.daved.features import make_features
from modicum.daved.frames import names_of
from modicum.daved.pool import Pool, ScaledPool, SubsetPool, grouped_scores, unscaled
from modicum.daved.reading import Place, Reader
from modicum.daved.rounding import Rules, purchase
from modicum.daved.selection import Selection
from modicum.daved.solvers.base import Design, Problem
from modicum.daved.solvers.frank_wolfe import FrankWolfe, Run, start_information

__all__ = ["batch_select", "frank_wolfe_many", "scores_of_many"]

_SCORES_AT_ONCE = 1 << 24
"""Scores that are kept at once, rows times buyers: 128 MB."""


def batch_select(
    X: Any,
    Qs: Any,
    budgets: Any,
    *,
    costs: Any = None,
    exclusive: bool = False,
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
) -> list[Selection]:
    """Choose for many buyers, each with queries and a budget of its own, what to buy.

    Each buyer gets what `modicum.daved.select.select` gives it alone. Rows are read and checked
    once, and with ``solver="fw"`` one pass over them serves all buyers; other solvers, lots, and
    ``"fw"`` with `X_owned` or `reg_lambda`, serve one buyer after the other. Use it also for one
    buyer with many unlike queries: a design for each few of them, with a part of the budget.

    Parameters
    ----------
    X, costs
        As for `select`.
    Qs
        Unlabelled queries of each buyer: a sequence of (m_i, d) arrays, frames or tensors, or one
        (g, m, d) array.
    budgets
        What each buyer may spend, (g,), or one number for each of them.
    exclusive
        Whether a record is sold once. Buyers are served in the order in which they are given; each
        gets what `select` gives on the records that none before it bought, with features fitted to
        all. Designs then depend on earlier purchases, so that no pass is shared. Not for `groups`.
    X_owned
        Rows that each buyer has, a sequence of (o_i, d) or None.
    random_state
        Seed of ``rounding="sample"``, the same for each buyer; a generator goes from buyer to
        buyer.
    solver, step, max_iter, tol, cost_mode, rounding, fill, drop_floor, unique, repeat, groups, \
max_per_group, min_per_group, noise_var, row_weight, prior, reg_lambda, ridge, features, \
normalize, max_norm, fit_intercept, compat, device, dtype, chunk_size
        As for `select`.

    Returns
    -------
    list of Selection
        In the order of the buyers. Of an exclusive sale arrays have one value per record of `X`;
        a record that was sold before has weight, score and fair price 0.

    Raises
    ------
    ValueError
        If an argument is not valid; the message names it and the buyer.
    ImportError
        If a device is named that needs torch, and torch is missing.
    InfeasibleBudgetError
        If a buyer can afford nothing, or nothing of what is left to it.

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
    >>> sales = batch_select(rows, np.eye(3)[:, None], 4, solver="greedy", exclusive=True)
    >>> len(set(np.concatenate([sale.indices for sale in sales]).tolist()))
    12
    """
    queries = _list_of("Qs", Qs)
    if not queries:
        return []
    wanted = _budgets(budgets, len(queries))
    owned = [None] * len(queries) if X_owned is None else _one_per_buyer(X_owned, len(queries))
    shape: dict[str, Any] = {
        "normalize": normalize,
        "max_norm": max_norm,
        "fit_intercept": fit_intercept,
    }
    reader = Reader(make_features(features, **shape), Place(device, dtype))
    first = prepare(
        X,
        queries[0],
        costs,
        reader,
        noise_var=noise_var,
        row_weight=row_weight,
        X_owned=owned[0],
        chunk_size=chunk_size,
        names=("X", "Qs[0]"),
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
    offers = [first, *_offers_of_others(first, reader, queries[1:], owned[1:])]
    for offer in offers:
        settings.check(offer)
    if exclusive:
        if groups is not None:
            raise ValueError("exclusive=True sells records singly: it is not for groups")
        rules_of(first, None, max_per_group, min_per_group, fill, unique, compat)
        return _sell_once(offers, settings, wanted, fill, unique, compat, random_state)
    rngs = [np.random.default_rng(random_state) for _ in offers]
    if groups is not None and max_per_group is None and min_per_group is None:
        return [
            buy_lots(offer, settings, budget, groups, fill, unique, rng, None)
            for offer, budget, rng in zip(offers, wanted, rngs, strict=True)
        ]
    rules = rules_of(first, groups, max_per_group, min_per_group, fill, unique, compat)
    for number, budget in enumerate(wanted):
        validation.check_budget(budget, first.prices_n, f"budgets[{number}]")
    if _can_share(settings, offers):
        return _buy_together(offers, settings, wanted, rules, rngs)
    return [
        buy_records(offer, settings, budget, rules, rng, None)
        for offer, budget, rng in zip(offers, wanted, rngs, strict=True)
    ]


def _list_of(name: str, Qs: Any) -> list[Any]:
    """Give the table of each buyer; of a single table nothing is guessed."""
    is_one = names_of(Qs) is not None or getattr(Qs, "ndim", 3) != 3
    if is_one or isinstance(Qs, str | dict):
        raise ValueError(
            f"{name} has one table for each buyer: it is a list of (m, d) or one (g, m, d) array; "
            f"{name}=[table] is one buyer, and {name}=table[:, None] one for each row of it"
        )
    return list(Qs)


def _budgets(budgets: Any, count: int) -> list[float]:
    given = [budgets] * count if np.ndim(budgets) == 0 else list(budgets)
    if len(given) != count:
        raise ValueError(f"budgets has {len(given)} values for {count} buyers")
    return [
        validation.check_budget(budget, None, f"budgets[{number}]")
        for number, budget in enumerate(given)
    ]


def _one_per_buyer(X_owned: Any, count: int) -> list[Any]:
    given = _list_of("X_owned", X_owned)
    if len(given) != count:
        raise ValueError(f"X_owned has {len(given)} entries for {count} buyers; None is nothing")
    return given


def _offers_of_others(
    first: Offer, reader: Reader, queries: list[Any], owned: list[Any]
) -> Iterator[Offer]:
    """Give the offer to every buyer but the first, whose rows have been read."""
    basis_dr = pseudo_inverse(first.gram_dd).basis
    for number, (Q, rows) in enumerate(zip(queries, owned, strict=True), 1):
        name = f"Qs[{number}]"
        queries_md = validation.check_queries(reader.rows(Q, name), first.pool.d, name, "X")
        owned_dd = None
        if rows is not None:
            owned_od = reader.rows(rows, f"X_owned[{number}]")
            validation.check_sellers(owned_od, f"X_owned[{number}]")
            owned_dd = owned_od.T @ owned_od
        offer = replace(first, queries_md=queries_md, owned_dd=owned_dd)
        with _named(name):
            yield _covering(offer, basis_dr)


def _covering(offer: Offer, basis_dr: np.ndarray) -> Offer:
    """Check and note how much of a buyer's queries the rows span."""
    coverage_m = coverage(basis_dr, offer.queries_md)
    validation.check_covered(coverage_m)
    validation.warn_coverage(coverage_m)
    validation.warn_many_queries(len(offer.queries_md))
    return replace(offer, coverage_m=coverage_m)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Put the name of a buyer in front of what is wrong with it."""
    try:
        yield
    except ValueError as error:
        raise type(error)(f"{name}: {error}") from error


def _can_share(settings: Settings, offers: list[Offer]) -> bool:
    """Say whether designs of all buyers start alike and follow by rank-one updates."""
    constant = any(settings.has_constant(offer) for offer in offers)
    return settings.solver == "fw" and settings.reg_lambda == 0 and not constant


def _buy_together(
    offers: list[Offer],
    settings: Settings,
    budgets: list[float],
    rules: Rules,
    rngs: list[np.random.Generator],
) -> list[Selection]:
    """Find all designs in shared passes, and buy by each, as `buy_records` does for one."""
    pool, prices_n = offers[0].pool, offers[0].prices_n
    divides = settings.cost_mode == "paper"
    is_priced = not divides and not offers[0].one_price
    solvers = [
        solver_by_name(
            "fw",
            step=settings.step,
            max_iter=settings.iterations(budget, prices_n),
            tol=settings.tol,
            repeat=settings.repeat,
            compat=settings.compat,
        )
        for budget in budgets
    ]
    designs = frank_wolfe_many(
        ScaledPool(pool, 1 / np.sqrt(prices_n)) if is_priced else pool,
        [offer.queries_md for offer in offers],
        [solver for solver in solvers if isinstance(solver, FrankWolfe)],
        costs=prices_n if divides and not offers[0].one_price else None,
    )
    found = []
    for offer, budget, design, rng in zip(offers, budgets, designs, rngs, strict=True):
        warn_of_run(offer, settings, budget, design)
        spending = in_budget(design, prices_n, budget, is_priced)
        ranking = rank(offer, settings, budget, rules, spending, rng)
        bought = purchase(ranking, prices_n, budget, rules)
        found.append(weighted_selection(offer, settings, budget, bought, spending))
    return found


def _sell_once(
    offers: list[Offer],
    settings: Settings,
    budgets: list[float],
    fill: bool,
    unique: bool,
    compat: str | None,
    random_state: int | np.random.Generator | None,
) -> list[Selection]:
    """Serve buyers in turn, each from what is left."""
    is_left_n = np.ones(offers[0].pool.n, dtype=bool)
    found = []
    for number, (offer, budget) in enumerate(zip(offers, budgets, strict=True)):
        left = np.flatnonzero(is_left_n)
        if not len(left):
            raise InfeasibleBudgetError(f"nothing is left for Qs[{number}]: all records are sold")
        with _named(f"Qs[{number}], of {len(left)} records that are left"):
            rest = _rest(offer, left)
            validation.check_budget(budget, rest.prices_n, f"budgets[{number}]")
            rules = rules_of(rest, None, None, None, fill, unique, compat)
            rng = np.random.default_rng(random_state)
            bought = buy_records(rest, settings, budget, rules, rng, None)
        found.append(_among_all(bought, left, offer))
        is_left_n[found[-1].indices] = False
    return found


def _rest(offer: Offer, left: np.ndarray) -> Offer:
    """Give the offer of some of the records."""
    if len(left) == offer.pool.n:
        return offer
    pool = SubsetPool(offer.pool, left)
    gram_dd = pool.gram()
    basis_dr = pseudo_inverse(gram_dd).basis
    validation.warn_rank(basis_dr.shape[1], pool.d)
    bare_pool = SubsetPool(offer.bare_pool, left)
    rest = replace(
        offer, pool=pool, bare_pool=bare_pool, prices_n=offer.prices_n[left], gram_dd=gram_dd
    )
    return _covering(rest, basis_dr)


def _among_all(bought: Selection, left: np.ndarray, offer: Offer) -> Selection:
    """Put a purchase from some of the records into positions and arrays of all."""

    def spread(values: np.ndarray) -> np.ndarray:
        of_all = np.zeros(offer.pool.n)
        of_all[left] = values
        return of_all

    history = tuple(
        replace(step, pick=int(left[step.pick])) if step.pick >= 0 else step
        for step in bought.history
    )
    return replace(
        bought,
        indices=left[bought.indices],
        weights=spread(bought.weights),
        scores=spread(bought.scores),
        fair_price=spread(bought.fair_price),
        prices=offer.prices_n,
        history=history,
        picks=left[bought.picks],
        labels=offer.labels_n,
    )


def frank_wolfe_many(
    pool: Pool,
    queries: Sequence[np.ndarray],
    solver: FrankWolfe | Sequence[FrankWolfe] | None = None,
    *,
    costs: np.ndarray | None = None,
    on_round: Callable[[int, int], None] | None = None,
) -> list[Design]:
    """Find a design for every buyer, each as if it were alone.

    Use it for buyers with few queries each, and instead of one design for many unlike queries. Rows
    of a `modicum.daved.torch_pool.TorchPool` on a device other than the CPU are asked there, by
    `modicum.daved.torch_frank_wolfe`, unless there are `costs` or a setting that it does not know.

    Parameters
    ----------
    pool
        The sellers' rows.
    queries
        Of each buyer, (m_i, d) float64.
    solver
        Settings for all, or one for each buyer; a regulariser is that of the first.
    costs
        Prices by which scores are divided, (n,), as in `Problem.costs`.
    on_round
        Sees (round from 0, buyers that still go on) before every pass over the rows, on a device
        before every few passes.

    Returns
    -------
    list of Design
        In the order of the buyers. Each keeps n weights and n scores.

    Raises
    ------
    ValueError
        If the numbers of solvers and of buyers differ.
    """
    solvers = _one_each(FrankWolfe() if solver is None else solver, len(queries))
    if not queries:
        return []
    if costs is None and _is_on_a_device(pool):
        from modicum.daved.torch_frank_wolfe import frank_wolfe_on_device, supports

        if supports(pool, solvers):
            return frank_wolfe_on_device(pool, queries, solvers, on_round=on_round)
    start_dd = start_information(solvers[0], pool)
    runs = [
        Run(settings, Problem(pool, queries_md, costs=costs), start_dd=start_dd)
        for settings, queries_md in zip(solvers, queries, strict=True)
    ]
    open_runs, number = runs, 0
    at_once = max(1, _SCORES_AT_ONCE // pool.n)
    while open_runs:
        if on_round is not None:
            on_round(number, len(open_runs))
        for start in range(0, len(open_runs), at_once):
            _advance(pool, open_runs[start : start + at_once])
        open_runs, number = [run for run in open_runs if run.is_open], number + 1
    return [run.design() for run in runs]


def _is_on_a_device(pool: Pool) -> bool:
    device = getattr(unscaled(pool)[0], "device", None)
    return device is not None and device.type != "cpu"


def _one_each(solver: FrankWolfe | Sequence[FrankWolfe], buyers: int) -> list[FrankWolfe]:
    if isinstance(solver, FrankWolfe):
        return [solver] * buyers
    if len(solver) != buyers:
        raise ValueError(f"there are {buyers} buyers, but {len(solver)} solvers: give one for each")
    return list(solver)


def _advance(pool: Pool, runs: list[Run]) -> None:
    wanted = [run.directions() for run in runs]
    for run, scores_n in zip(runs, scores_of_many(pool, wanted), strict=True):
        # A copy, so that a run that has ended does not keep the scores of all others.
        run.advance(scores_n.copy())


def scores_of_many(pool: Pool, directions: Sequence[np.ndarray]) -> np.ndarray:
    """Give the scores of every row in each set of directions, (g, n) float64.

    Parameters
    ----------
    pool
        One with ``grouped_scores`` is passed over once; any other once per set.
    directions
        Columns of each buyer, (d, m_i).
    """
    sizes = [columns_dm.shape[1] for columns_dm in directions]
    return grouped_scores(pool, np.concatenate(directions, axis=1), sizes)
