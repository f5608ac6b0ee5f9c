"""Checks at the public door: what a purchase needs, and what makes one worse than it looks.

The ``check_*`` functions take the name of an argument where there is a choice and its value, raise
an error that names it, and give the value back in its plain form. The ``warn_*`` functions take
what a run has measured and warn with a `DAVEDWarning`. Inputs are arrays already (see
`modicum.daved.frames`); nothing here looks at labels or solves anything.

Shapes: n rows of sellers, d features, m queries.
"""

import difflib
import math
import numbers
import sys
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from modicum.daved.errors import DAVEDWarning, InfeasibleBudgetError

__all__ = [
    "check_budget",
    "check_count",
    "check_covered",
    "check_finite",
    "check_fraction",
    "check_groups",
    "check_lot_prices",
    "check_no_labels",
    "check_noise",
    "check_one_of",
    "check_positive",
    "check_prices",
    "check_queries",
    "check_row_weight",
    "check_sellers",
    "check_squares",
    "warn_coverage",
    "warn_few_gains",
    "warn_many_queries",
    "warn_noise_in_a_relaxation",
    "warn_norms",
    "warn_rank",
    "warn_scales",
    "warn_small_budget",
    "warn_stalled",
]

LEAST_COVERAGE = 0.99
"""Share of a query's squared length in the sellers' span below which a warning is due."""

MOST_QUERIES = 32
"""Number of unlike queries up to which one design for all of them is still a targeted one."""

NORM_DEVIATIONS = 6
"""Median absolute deviations above the median at which a row's norm looks inflated."""

LARGEST_SCALE_RATIO = 1e6
"""Ratio of the features' root mean squares above which standardising is advised."""

NO_COVERAGE = 1e-12
"""Share of a query's squared length in the sellers' span that is rounding only."""

_VALUES_OF_A_CHUNK = 1 << 22
_PACKAGE = "modicum.daved"


def check_one_of(name: str, value: Any, choices: Iterable[str]) -> str:
    """Take one of the names that there are.

    Raises
    ------
    ValueError
        If it is none of them; the message lists them and suggests the nearest.
    """
    names = list(choices)
    if isinstance(value, str) and value in names:
        return value
    near = difflib.get_close_matches(str(value), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name} must be one of {', '.join(map(repr, names))}, not {value!r}{hint}")


def check_positive(name: str, value: Any) -> float:
    """Take a finite number above 0.

    Raises
    ------
    TypeError
        If it is no real number.
    ValueError
        If it is 0, negative, infinite or nan.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a positive number, not {value!r}")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive and finite, not {value!r}")
    return float(value)


def check_count(name: str, value: Any, least: int = 1) -> int:
    """Take an integer that is at least `least`.

    Raises
    ------
    TypeError
        If it is no integer.
    ValueError
        If it is too small.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value!r}")
    return int(value)


def check_fraction(name: str, value: Any) -> float:
    """Take a number in [0, 1), such as ``reg_lambda``.

    Raises
    ------
    TypeError
        If it is no real number.
    ValueError
        If it is outside.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number in [0, 1), not {value!r}")
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), not {value!r}")
    return float(value)


def check_finite(name: str, values: Any) -> None:
    """Refuse nan and infinity in an (n, d) array, memory map or tensor, or in a list of them.

    Of a tensor only what is wrong leaves its device.

    Raises
    ------
    ValueError
        If there is one; the message counts them and says where the first is.
    """
    count, first, start = 0, None, 0
    for shard in values if isinstance(values, list | tuple) else [values]:
        step = max(1, _VALUES_OF_A_CHUNK // max(1, int(np.prod(shard.shape[1:]))))
        for begin in range(0, len(shard), step):
            found, place = _not_finite(shard[begin : begin + step])
            if found and first is None:
                row, *rest = place
                first = (start + begin + row, *rest)
            count += found
        start += len(shard)
    if first is not None:
        where = first[0] if len(first) == 1 else first
        raise ValueError(
            f"{name} has {count} values that are NaN or infinite, the first at {where}; "
            "fill or drop them before"
        )


def _not_finite(block: Any) -> tuple[int, list[int]]:
    """Count what is not finite, and say where the first of it is."""
    if hasattr(block, "detach"):
        bad = ~block.isfinite()
        return int(bad.sum()), bad.nonzero()[0].tolist() if bad.any() else []
    bad = ~np.isfinite(np.asarray(block))
    return int(bad.sum()), np.argwhere(bad)[0].tolist() if bad.any() else []


def check_sellers(values: Any, name: str = "X_seller") -> tuple[int, int]:
    """Check the sellers' rows and count them.

    Parameters
    ----------
    values
        (n, d) of a real type, an array or a tensor, or a list of such shards.
    name
        What error messages call them.

    Returns
    -------
    tuple of int
        n and d.

    Raises
    ------
    ValueError
        If there is no row or no feature, or a value is not finite.
    """
    shards = values if isinstance(values, list | tuple) else [values]
    n, d = sum(len(shard) for shard in shards), int(shards[0].shape[1])
    _check_size(name, n, d)
    check_finite(name, values)
    return n, d


def check_queries(
    queries: Any, d: int, name: str = "X_buyer", sellers: str = "X_seller"
) -> np.ndarray:
    """Check the buyer's queries.

    Parameters
    ----------
    queries
        (m, d) of a real type.
    d
        Features of the sellers' rows.
    name, sellers
        What error messages call the two.

    Returns
    -------
    numpy.ndarray
        (m, d) float64.

    Raises
    ------
    ValueError
        If there is no query, the numbers of features differ, a value is not finite, or a query is
        all zeros: its prediction is known without any data.
    """
    queries_md = np.asarray(queries, dtype=np.float64)
    _check_size(name, *queries_md.shape)
    if queries_md.shape[1] != d:
        raise ValueError(
            f"{name} has {queries_md.shape[1]} features, but {sellers} has {d}; both need the "
            "same features in the same order"
        )
    check_finite(name, queries_md)
    empty = np.flatnonzero(~queries_md.any(axis=1))
    if len(empty):
        raise ValueError(
            f"{name} has {len(empty)} rows of zeros, the first at {empty[0]}; no data help a "
            "query of zeros: drop them"
        )
    norms_m = np.sqrt(np.einsum("md,md->m", queries_md, queries_md))
    check_squares(name, np.where(norms_m > 0, norms_m, np.inf))
    return queries_md


def _check_size(name: str, rows: int, features: int) -> None:
    if rows == 0:
        raise ValueError(
            f"{name} has 0 sample(s) (shape=(0, {features})) while a minimum of 1 is required."
        )
    if features == 0:
        raise ValueError(
            f"{name} has 0 feature(s) (shape=({rows}, 0)) while a minimum of 1 is required."
        )


def check_squares(name: str, norms: np.ndarray) -> None:
    """Refuse rows so long or so short that the squares of their values leave float64.

    Parameters
    ----------
    name
        What error messages call the rows.
    norms
        Their norms, computed by squares.

    Raises
    ------
    ValueError
        If one is infinite.
    """
    wrong = np.flatnonzero(~np.isfinite(norms))
    if len(wrong):
        raise ValueError(
            f"{name} has {len(wrong)} rows whose squared values are beyond float64, the first at "
            f"{wrong[0]}; scale the features of sellers and buyer alike"
        )


def check_prices(costs: Any, n: int, name: str = "costs") -> np.ndarray:
    """Check one price per record; None is 1 for each.

    Returns
    -------
    numpy.ndarray
        (n,) float64, in currency.

    Raises
    ------
    ValueError
        If the number is wrong, or a price is not positive and finite.
    """
    if costs is None:
        return np.ones(n)
    return _positive_values(name, costs, n, "price")


def check_noise(noise_var: Any, n: int, name: str = "noise_var") -> np.ndarray:
    """Check one variance of the label noise per record, as `check_prices` does for prices."""
    return _positive_values(name, noise_var, n, "variance")


def check_row_weight(row_weight: Any, n: int, name: str = "row_weight") -> np.ndarray:
    """Check one weight per record, as of a generalised linear model.

    Returns
    -------
    numpy.ndarray
        (n,) float64; a record of weight 0 has no information.

    Raises
    ------
    ValueError
        If the number is wrong, a weight is negative or not finite, or all are 0.
    """
    found_n = _values(name, row_weight, n, "weight")
    wrong = np.flatnonzero(found_n < 0)
    if len(wrong):
        raise ValueError(
            f"{name} has {len(wrong)} values below 0, the first is {found_n[wrong[0]]} at "
            f"{wrong[0]}; a weight is at least 0"
        )
    if not found_n.any():
        raise ValueError(f"{name} is 0 for all of the {n} records: none has any information")
    return found_n


def _values(name: str, values: Any, n: int, what: str) -> np.ndarray:
    found_n = np.asarray(values, dtype=np.float64)
    if found_n.shape != (n,):
        raise ValueError(
            f"{name} has shape {found_n.shape}; it needs one {what} for each of the {n} records"
        )
    check_finite(name, found_n)
    return found_n


def _positive_values(name: str, values: Any, n: int, what: str) -> np.ndarray:
    found_n = _values(name, values, n, what)
    wrong = np.flatnonzero(found_n <= 0)
    if len(wrong):
        raise ValueError(
            f"{name} has {len(wrong)} values that are not positive, the first is "
            f"{found_n[wrong[0]]} at {wrong[0]}; every {what} must be above 0"
        )
    return found_n


def check_budget(budget: Any, prices: np.ndarray | None = None, name: str = "budget") -> float:
    """Check a budget, in the currency of the prices.

    Parameters
    ----------
    budget
        What may be spent; with prices of 1 the number of records.
    prices
        Prices of what can be bought; without them only the number is checked.
    name
        What error messages call it.

    Raises
    ------
    TypeError
        If it is no real number.
    ValueError
        If it is not positive and finite.
    InfeasibleBudgetError
        If every price is above it.
    """
    found = check_positive(name, budget)
    if prices is not None and prices.min() > found:
        raise InfeasibleBudgetError(
            f"{name} {found} buys nothing: the cheapest price is {prices.min()}"
        )
    return found


def check_groups(groups: Any, n: int, name: str = "groups") -> tuple[np.ndarray, np.ndarray]:
    """Check the group of every record.

    Parameters
    ----------
    groups
        (n,) labels that can be sorted.
    n
        Number of records.
    name
        What error messages call it.

    Returns
    -------
    labels, codes
        The groups there are, sorted, and the position of each record's group among them, (n,).

    Raises
    ------
    ValueError
        If the number is wrong, or labels are missing.
    """
    values_n = np.asarray(groups)
    if values_n.shape == (n, 1):
        values_n = values_n[:, 0]
    if values_n.shape != (n,):
        raise ValueError(
            f"{name} has shape {values_n.shape}; it needs one group for each of the {n} records"
        )
    missing = _missing(values_n)
    if missing.any():
        raise ValueError(f"{name} has no group for the record at {int(np.argmax(missing))}")
    try:
        labels, codes_n = np.unique(values_n, return_inverse=True)
    except TypeError:
        kinds = sorted({type(value).__name__ for value in values_n})
        raise ValueError(f"{name} mixes labels of types {kinds}; take one type") from None
    return labels, codes_n


def _missing(values_n: np.ndarray) -> np.ndarray:
    """Say which labels are nan, or what libraries of frames write for missing, (n,) bool."""
    if values_n.dtype.kind != "O":
        return np.asarray(values_n != values_n)
    kinds = ("NoneType", "NAType", "NaTType")
    return np.array(
        [
            type(value).__name__ in kinds or (isinstance(value, float) and math.isnan(value))
            for value in values_n
        ]
    )


def check_lot_prices(prices_n: np.ndarray, codes_n: np.ndarray, labels: Any = None) -> np.ndarray:
    """Give the price of every lot, (g,), which each of its records carries.

    Parameters
    ----------
    prices_n
        Price of the record's whole lot, (n,).
    codes_n
        Number of the record's lot, (n,).
    labels
        Names of the lots for messages.

    Raises
    ------
    ValueError
        If records of one lot carry different prices.
    """
    count = int(codes_n.max()) + 1
    low_g, high_g = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(low_g, codes_n, prices_n)
    np.maximum.at(high_g, codes_n, prices_n)
    mixed = np.flatnonzero(low_g != high_g)
    if len(mixed):
        lot = mixed[0]
        raise ValueError(
            f"costs mixes prices from {low_g[lot]} to {high_g[lot]} in the group "
            f"{lot if labels is None else labels[lot]!r}; a lot has one price, that of the whole "
            "lot, at each of its records"
        )
    return low_g


def check_no_labels(y: Any) -> None:
    """Refuse labels: none may influence what is bought.

    Raises
    ------
    ValueError
        If `y` is anything but None.
    """
    if y is not None:
        raise ValueError(
            "y must be None: a purchase is chosen without labels, which nobody has before it; "
            "queries go into X_buyer"
        )


def check_covered(coverage_m: np.ndarray) -> None:
    """Refuse queries of which the sellers' rows span nothing.

    Raises
    ------
    ValueError
        If that is so for every query.
    """
    if (coverage_m <= NO_COVERAGE).all():
        raise ValueError(
            f"no part of the {len(coverage_m)} queries lies in the span of the sellers' rows: no "
            "purchase helps them; are their features those of the sellers?"
        )


def warn_coverage(coverage_m: np.ndarray) -> None:
    """Warn of queries that the sellers' rows do not span: their missing part counts as known."""
    low = np.flatnonzero(coverage_m < LEAST_COVERAGE)
    if len(low):
        _warn(
            f"{len(low)} of {len(coverage_m)} queries have coverage below {LEAST_COVERAGE}, the "
            f"first {coverage_m[low[0]]:.3g} at {low[0]}: no purchase here predicts the rest of "
            "them, and the objective leaves it out"
        )


def warn_rank(rank: int, d: int) -> None:
    """Warn of sellers' rows that do not span all features."""
    if rank < d:
        _warn(f"the sellers' rows have rank {rank} in {d} features; the design lives on their span")


def warn_many_queries(m: int) -> None:
    """Warn of so many queries that a design for their mean is not targeted any more."""
    if m > MOST_QUERIES:
        _warn(
            f"{m} queries in one design: over more than {MOST_QUERIES} unlike queries it turns "
            "into a general design; choose for a few alike queries at a time, each with a part of "
            "the budget"
        )


def warn_norms(norms_n: np.ndarray) -> None:
    """Warn of rows far longer than the others, which may be inflated to be bought."""
    median = float(np.median(norms_n))
    deviation = float(np.median(np.abs(norms_n - median)))
    # Norms that are equal but for rounding have a deviation of rounding.
    limit = median + NORM_DEVIATIONS * max(deviation, 1e-6 * median)
    row = int(np.argmax(norms_n))
    if norms_n[row] > limit:
        _warn(
            f"{int((norms_n > limit).sum())} rows have norms above {limit:.3g} (median "
            f"{median:.3g} + {NORM_DEVIATIONS} MAD), the largest {norms_n[row]:.3g} at {row}: long "
            "rows look informative and may be inflated; normalize='l2' or max_norm bounds them"
        )


def warn_scales(second_moments_d: np.ndarray) -> None:
    """Warn of features whose root mean squares differ so much that digits are lost."""
    used_d = second_moments_d[second_moments_d > 0]
    if not len(used_d):
        return
    ratio = math.sqrt(used_d.max() / used_d.min())
    if ratio > LARGEST_SCALE_RATIO:
        _warn(
            f"the features' scales differ by a factor of {ratio:.2g}: standardise sellers and "
            "buyer alike (features='standardize'), which leaves the objective as it is"
        )


def warn_small_budget(count: float, d: int) -> None:
    """Warn of ranking fewer records than features by nearly optimal weights.

    Parameters
    ----------
    count
        Number of records that the budget buys, roughly.
    d
        Number of features.
    """
    if count < d:
        _warn(
            f"the budget buys about {count:.0f} records, fewer than the {d} features, and nearly "
            "optimal weights rank so few records badly; use solver='fw' with "
            f"max_iter={max(1, round(2 * count))} or solver='greedy'"
        )


def warn_few_gains(scores_n: np.ndarray, count: int) -> None:
    """Warn of a purchase of more records than there are any that help."""
    useful = int((scores_n > 0).sum())
    if useful < count:
        _warn(
            f"{count} records are bought and only {useful} have a positive gain: the others do "
            "nothing for these queries"
        )


def warn_stalled(converged: bool, steps: int, max_iter: int) -> None:
    """Warn of a line search that found no descent before the tolerance was reached.

    Scores average to the objective, so the largest is never below it: only rounding ends a run so.
    """
    if not converged and steps < max_iter:
        _warn(
            f"the line search found no descent after {steps} of {max_iter} steps, before the "
            "tolerance was reached: rounding in the inverse; standardise the features "
            "(features='standardize')"
        )


def warn_noise_in_a_relaxation() -> None:
    """Warn of noise variances in a design whose weights are rounded."""
    _warn(
        "noise_var with rounded weights can make a purchase worse where variances differ much; "
        "solver='greedy' takes them well"
    )


def _warn(message: str) -> None:
    """Warn in the name of the first caller outside this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, DAVEDWarning, stacklevel=level)
