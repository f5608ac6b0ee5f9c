"""Frank-Wolfe for many buyers at once on one pool.

Takes one pool and the queries of many buyers, and finds for each the design that it would get
alone. The buyers share every pass over the rows, which turns products with a few columns into one
with many. Buyers never see each other: each has its own design, and ends on its own.

Shapes: n rows, d features, k columns of all buyers, g buyers.
"""

from collections.abc import Callable, Sequence

import numpy as np

from modicum.daved.pool import Pool
from modicum.daved.solvers.base import Design, Problem
from modicum.daved.solvers.frank_wolfe import FrankWolfe, Run, start_information

__all__ = ["frank_wolfe_many", "scores_of_many"]

_SCORES_AT_ONCE = 1 << 24
"""Scores that are kept at once, rows times buyers: 128 MB."""


def frank_wolfe_many(
    pool: Pool,
    queries: Sequence[np.ndarray],
    solver: FrankWolfe | Sequence[FrankWolfe] | None = None,
    *,
    costs: np.ndarray | None = None,
    on_round: Callable[[int, int], None] | None = None,
) -> list[Design]:
    """Find a design for every buyer, each as if it were alone.

    Use it for buyers with few queries each, and instead of one design for many unlike queries.

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
        Sees (round from 0, buyers that still go on) before every pass over the rows.

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
    grouped = getattr(pool, "grouped_scores", None)
    if grouped is None:
        return np.stack([pool.scores(columns_dm) for columns_dm in directions])
    sizes = [columns_dm.shape[1] for columns_dm in directions]
    found_gn: np.ndarray = grouped(np.concatenate(directions, axis=1), sizes)
    return found_gn
