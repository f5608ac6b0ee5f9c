"""Pictures of a purchase: error against budget, iterations, weights, prices, where it lies.

Takes plain arrays and gives matplotlib figures. matplotlib is loaded by the first figure; it is an
optional dependency. Computes nothing that it draws, except the plane of a principal component
projection and the shares of weight.

Legend: ``n`` rows, ``d`` features, ``m`` queries, ``k`` rows bought, ``B`` budgets, ``T`` steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modicum.core.plots import COLOURS, GREY, look, new_axes
from modicum.daved.theory import effective_sample_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "acquisition_curve",
    "concentration",
    "convergence",
    "coverage",
    "error_against_budget",
    "price_against_fair_price",
    "projection",
    "spend_per_seller",
]

PACKAGE = "modicum-daved"
_MOST_POINTS = 5000
"""Rows of a scatter and points of a line; of more, evenly many are left out."""
_FEW_POINTS = 500
"""Points of a scatter up to which each is drawn as a shape; more become one image."""
_LONGEST_NAME = 28
"""Characters of a seller's name on an axis."""


def _curve(name: str, values: Sequence[npt.ArrayLike], parts: tuple[int, ...]) -> list[np.ndarray]:
    arrays = [np.asarray(part, dtype=float) for part in values]
    if len(arrays) not in parts:
        raise ValueError(f"{name!r} has {len(arrays)} parts; it takes {parts[0]} or {parts[-1]}")
    shapes = [array.shape for array in arrays]
    if any(len(shape) != 1 or shape != shapes[0] for shape in shapes):
        raise ValueError(f"{name!r} has shapes {shapes}; all must be the same (B,)")
    return arrays


def error_against_budget(
    curves: Mapping[str, Sequence[npt.ArrayLike]],
    *,
    bought: float | None = None,
    ylabel: str = "predicted error",
    logarithmic: bool = True,
) -> Figure:
    """Draw errors, predicted or measured, against the budget.

    Parameters
    ----------
    curves
        By name the budgets (B,), the errors (B,) and, if there are any, the low and the high ends
        (B,) of their intervals.
    bought
        The budget of a purchase, marked by a line.
    ylabel
        What is drawn.
    logarithmic
        Whether both axes are logarithmic.

    Raises
    ------
    ValueError
        If there is no curve, or one has other parts or shapes.
    """
    if not curves:
        raise ValueError("there is no curve to draw")
    figure, axes = new_axes(PACKAGE)
    for index, (name, values) in enumerate(curves.items()):
        budgets_B, errors_B, *ends = _curve(name, values, (2, 4))
        axes.plot(budgets_B, errors_B, marker="o", markersize=3, label=name, **look(index))
        if ends:
            axes.fill_between(budgets_B, *ends, color=look(index)["color"], alpha=0.15, linewidth=0)
    if bought is not None:
        axes.axvline(bought, color=GREY, linestyle="--", linewidth=1, label="bought")
    if logarithmic:
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.set_xlabel("budget")
    axes.set_ylabel(ylabel)
    axes.legend(frameon=False, fontsize="small")
    return figure


def acquisition_curve(
    curves: Mapping[str, Sequence[npt.ArrayLike]], *, removal: bool = False
) -> Figure:
    """Draw the error of a model against the rows it was given, or that were taken from it.

    Parameters
    ----------
    curves
        As in `error_against_budget`, with numbers of rows for budgets. They need labels, which a
        purchase does not.
    removal
        Whether the best rows are taken away instead of bought.
    """
    figure = error_against_budget(curves, ylabel="test error", logarithmic=False)
    figure.axes[0].set_xlabel("rows removed, best first" if removal else "rows bought")
    figure.axes[0].set_yscale("log")
    figure.axes[0].locator_params(axis="x", integer=True)
    return figure


def convergence(objective_T: npt.ArrayLike, gap_T: npt.ArrayLike) -> Figure:
    """Draw the objective and its certificate over the iterations, logarithmic.

    Parameters
    ----------
    objective_T
        L(w) before every iteration, (T,).
    gap_T
        Certificate of the same iterations, (T,); nan is left out.
    """
    objective, gap = _curve("iterations", [objective_T, gap_T], (2, 2))
    figure, axes = new_axes(PACKAGE)
    iterations = np.arange(len(objective))
    axes.plot(iterations, objective, label="objective", **look(0))
    seen = np.isfinite(gap) & (gap > 0)
    if seen.any():
        axes.plot(iterations[seen], gap[seen], label="at most this above the optimum", **look(1))
    axes.set_yscale("log")
    axes.set_xlabel("iteration")
    axes.set_ylabel("label variance per unit weight")
    axes.legend(frameon=False, fontsize="small")
    return figure


def concentration(weights_n: npt.ArrayLike) -> Figure:
    """Draw how many rows have how much of the design's weight.

    Parameters
    ----------
    weights_n
        Design weights, (n,), nonnegative, not all 0.
    """
    (weights,) = _curve("weights", [weights_n], (1, 1))
    total = weights.sum()
    if not total > 0:
        raise ValueError(f"the weights have the sum {total}; it must be positive")
    share = np.cumsum(np.sort(weights)[::-1]) / total
    effective = effective_sample_size(weights)
    shown = _thin(len(share), logarithmic=True)
    figure, axes = new_axes(PACKAGE)
    axes.plot(shown + 1, share[shown], label="share of the weight", **look(0))
    axes.axvline(
        effective, color=GREY, linestyle="--", linewidth=1, label=f"effective {effective:.3g} rows"
    )
    axes.set_xscale("log")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("rows, heaviest first")
    axes.set_ylabel("share of the weight")
    axes.legend(frameon=False, fontsize="small")
    return figure


def _thin(count: int, *, logarithmic: bool = False) -> np.ndarray:
    """Give evenly spread indices, at most so many as a picture can show, with both ends."""
    if count <= _MOST_POINTS:
        return np.arange(count)
    spread = np.geomspace if logarithmic else np.linspace
    return np.unique(np.round(spread(1, count, _MOST_POINTS) - 1).astype(np.int64))


def price_against_fair_price(
    prices_n: npt.ArrayLike, fair_prices_n: npt.ArrayLike, bought_k: npt.ArrayLike
) -> Figure:
    """Draw what every row costs against what it is worth, with the bought ones on top.

    Rows above the diagonal cost more than they are worth to this buyer.

    Parameters
    ----------
    prices_n, fair_prices_n
        Asked and fair prices, (n,), in one currency.
    bought_k
        Indices of the bought rows, (k,).
    """
    prices, fair = _curve("prices", [prices_n, fair_prices_n], (2, 2))
    bought = np.asarray(bought_k, dtype=np.int64)
    shown = _thin(len(prices))
    figure, axes = new_axes(PACKAGE)
    _dots(axes, fair[shown], prices[shown], s=8, color=GREY, alpha=0.4, label="offered")
    _dots(axes, fair[bought], prices[bought], s=18, color=COLOURS[1], label="bought")
    # From corner to corner of what is shown, and no further than the dots go.
    ends = [prices.min(), prices.max()]
    axes.plot(ends, ends, color=GREY, linestyle="--", linewidth=1, label="worth its price")
    axes.set_xlabel("fair price")
    axes.set_ylabel("price")
    axes.legend(frameon=False, fontsize="small")
    return figure


def projection(
    rows_nd: npt.ArrayLike, queries_md: npt.ArrayLike, bought_k: npt.ArrayLike
) -> Figure:
    """Draw sellers' rows, queries and purchase in the plane of most variance of the sellers' rows.

    Parameters
    ----------
    rows_nd, queries_md
        Sellers' and buyer's features, (n, d) and (m, d), d at least 2.
    bought_k
        Indices of the bought rows, (k,).
    """
    rows = np.asarray(rows_nd, dtype=float)
    queries = np.asarray(queries_md, dtype=float)
    if rows.ndim != 2 or rows.shape[1] < 2 or queries.shape[1:] != rows.shape[1:]:
        raise ValueError(
            f"rows have shape {rows.shape}, queries {queries.shape}; they must be (n, d) and (m, d)"
            " with d at least 2"
        )
    mean = rows.mean(axis=0)
    centred = rows - mean
    _, vectors = np.linalg.eigh(centred.T @ centred)
    plane = vectors[:, [-1, -2]]
    shown = _thin(len(rows))
    bought = np.asarray(bought_k, dtype=np.int64)
    figure, axes = new_axes(PACKAGE)
    for points, size, colour, alpha, label in (
        (centred[shown], 8, GREY, 0.4, "offered"),
        (centred[bought], 20, COLOURS[1], 1.0, "bought"),
        (queries - mean, 40, COLOURS[0], 1.0, "queries"),
    ):
        first, second = (points @ plane).T
        _dots(axes, first, second, s=size, color=colour, alpha=alpha, label=label)
    axes.set_xlabel("first principal component")
    axes.set_ylabel("second principal component")
    axes.legend(frameon=False, fontsize="small")
    return figure


def _dots(axes: Any, x: np.ndarray, y: np.ndarray, **how: Any) -> None:
    axes.scatter(x, y, rasterized=len(x) > _FEW_POINTS, **how)


def spend_per_seller(spent: Mapping[str, float]) -> Figure:
    """Draw what every seller is paid, the first one on top.

    Parameters
    ----------
    spent
        By seller the money, in the currency of the prices. Long names are cut.
    """
    if not spent:
        raise ValueError("there is no seller to draw")
    places = np.arange(len(spent))
    figure, axes = new_axes(PACKAGE, height=max(2.0, 0.9 + 0.28 * len(spent)))
    axes.barh(places, list(spent.values()), color=COLOURS[0])
    # A name with dollar signs is a name and no formula.
    axes.set_yticks(places, list(map(_printable, spent)), parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel("spent")
    return figure


def _printable(name: str) -> str:
    """Give a name as a picture can hold it: without control characters, not too long."""
    shown = "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in name)
    return shown if len(shown) <= _LONGEST_NAME else shown[: _LONGEST_NAME - 1] + "…"


def coverage(coverage_m: npt.ArrayLike, *, warn_below: float = 0.99) -> Figure:
    """Draw how much of every query lies in the span of what the sellers have.

    Parameters
    ----------
    coverage_m
        Shares between 0 and 1, (m,).
    warn_below
        Share below which predictions of a query cannot be trusted, marked by a line.
    """
    (shares,) = _curve("coverage", [coverage_m], (1, 1))
    figure, axes = new_axes(PACKAGE)
    axes.hist(shares, bins=20, range=(0, 1), color=COLOURS[0], label="queries")
    axes.axvline(warn_below, color=GREY, linestyle="--", linewidth=1, label="trusted from here")
    axes.locator_params(axis="y", integer=True)
    axes.set_xlabel("share of a query in the sellers' span")
    axes.set_ylabel("queries")
    axes.legend(frameon=False, fontsize="small")
    return figure
