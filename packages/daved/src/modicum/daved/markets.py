"""Data markets to try purchases on: generated ones and tables that come with scikit-learn.

Makes rows, labels and buyers; buys nothing and measures nothing. Everything random comes from the
generator that is handed in. scikit-learn is loaded by the first bundled table.

Shapes: n sellers' rows, d features, m buyers (one query each), v labelled validation rows.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

__all__ = [
    "BUNDLED",
    "QUALITIES",
    "Market",
    "bundled_market",
    "gaussian_market",
    "inflate_rows",
    "priced_market",
]

LABEL_NOISE = 0.1
"""Standard deviation of the published generator's label noise."""
PRICED_LABEL_NOISE = 0.5
"""Standard deviation of the label noise of a record whose quality is 1."""
PRICES = (1.0, 2.0, 3.0, 4.0, 5.0)

QUALITIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sqrt": np.sqrt,
    "linear": lambda prices_n: prices_n,
    "square": np.square,
}
"""By how much a record of a price is less noisy than one of price 1."""


@dataclass(frozen=True)
class Market:
    """Sellers with labelled rows, and buyers with a query each.

    Attributes
    ----------
    name
        What it is, for tables.
    rows_nd, labels_n
        The sellers' records, float64; a selection must not look at the labels.
    clean_n
        The labels without their noise, where they are known; the labels otherwise.
    queries_md, answers_m
        The buyers' queries, and their labels for the evaluation; without noise where that is known.
    validation_vd, validation_labels_v
        Labelled rows for methods that need them. No buyer's query is among them.
    prices_n
        Price of every record, in currency.
    noise_var_n
        Variance of every label's noise; None where it is unknown or the same for all.
    """

    name: str
    rows_nd: np.ndarray
    labels_n: np.ndarray
    clean_n: np.ndarray
    queries_md: np.ndarray
    answers_m: np.ndarray
    validation_vd: np.ndarray
    validation_labels_v: np.ndarray
    prices_n: np.ndarray
    noise_var_n: np.ndarray | None = None


def _unit_rows(count: int, d: int, rng: np.random.Generator) -> np.ndarray:
    rows = rng.standard_normal((count, d))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def gaussian_market(
    n: int = 1000,
    d: int = 30,
    buyers: int = 100,
    *,
    validation: int = 100,
    noise: float = LABEL_NOISE,
    normalize: bool = True,
    rng: np.random.Generator,
) -> Market:
    """Make the linear market of the published synthetic experiment.

    Rows and queries are Gaussian directions of norm 1; coefficients have an exponential size of
    mean 1 and a random sign; labels are linear with Gaussian noise, the buyers' without.

    Parameters
    ----------
    n, d, buyers, validation
        Numbers of sellers' rows, features, buyers and validation rows.
    noise
        Standard deviation of the noise of sellers' and validation labels.
    normalize
        Whether all rows have norm 1; otherwise they are standard Gaussian.
    rng
        Source of all randomness.

    Notes
    -----
    "DAVED: Data Acquisition via Experimental Design for Data Markets", Lu et al., NeurIPS 2024,
    arXiv 2403.13893, and its published code.
    """
    total = n + buyers + validation
    rows = _unit_rows(total, d, rng) if normalize else rng.standard_normal((total, d))
    coefficients_d = rng.exponential(size=d) * rng.choice([-1.0, 1.0], size=d)
    clean = rows @ coefficients_d
    noisy = clean + noise * rng.standard_normal(total)
    seller, buyer = slice(0, n), slice(n, n + buyers)
    judge = slice(n + buyers, total)
    return Market(
        name=f"Gaussian, n = {n:,}, d = {d}",
        rows_nd=rows[seller],
        labels_n=noisy[seller],
        clean_n=clean[seller],
        queries_md=rows[buyer],
        answers_m=clean[buyer],
        validation_vd=rows[judge],
        validation_labels_v=noisy[judge],
        prices_n=np.ones(n),
    )


def priced_market(
    market: Market,
    quality: str = "sqrt",
    *,
    noise: float = PRICED_LABEL_NOISE,
    prices: tuple[float, ...] = PRICES,
    rng: np.random.Generator,
) -> Market:
    """Give every record a price, and labels that are the better the more they cost.

    Parameters
    ----------
    market
        Where the rows and the labels without noise come from.
    quality
        How the quality h grows with the price, one of `QUALITIES`; the standard deviation of a
        label's noise is ``noise / h(price)``.
    noise
        Standard deviation at quality 1.
    prices
        Prices to draw from, uniformly.
    rng
        Source of all randomness.

    Raises
    ------
    ValueError
        For an unknown quality.
    """
    if quality not in QUALITIES:
        raise ValueError(f"quality must be one of {sorted(QUALITIES)}, not {quality!r}")
    prices_n = rng.choice(np.asarray(prices, dtype=np.float64), size=len(market.rows_nd))
    noise_n = noise / QUALITIES[quality](prices_n)
    labels_n = market.clean_n + noise_n * rng.standard_normal(len(prices_n))
    return replace(market, labels_n=labels_n, prices_n=prices_n, noise_var_n=np.square(noise_n))


def inflate_rows(
    market: Market, count: int, factor: float, rng: np.random.Generator
) -> tuple[Market, np.ndarray]:
    """Let a seller multiply the features of some records, as one who wants to be chosen would.

    Returns
    -------
    market, indices
        A new market, and which ``count`` rows were multiplied with ``factor``, ascending.
    """
    indices = np.sort(rng.choice(len(market.rows_nd), size=count, replace=False))
    rows_nd = market.rows_nd.copy()
    rows_nd[indices] *= factor
    return replace(market, rows_nd=rows_nd), indices


# Bundled tables ---------------------------------------------------------------------------------

Table = tuple[np.ndarray, np.ndarray]


def _loaded(name: str) -> Table:
    from sklearn import datasets

    rows, labels = getattr(datasets, name)(return_X_y=True)
    return rows, labels


def _breast_cancer(rng: np.random.Generator) -> Table:
    rows, classes = _loaded("load_breast_cancer")
    return rows, 2.0 * classes - 1.0


def _friedman(rng: np.random.Generator) -> Table:
    from sklearn.datasets import make_friedman1

    rows, labels = make_friedman1(2000, noise=1.0, random_state=_legacy_seed(rng))
    return rows, labels


def _regression(rng: np.random.Generator) -> Table:
    from sklearn.datasets import make_regression

    rows, labels = make_regression(
        2000, n_features=20, n_informative=10, noise=5.0, random_state=_legacy_seed(rng)
    )
    return rows, labels


def _legacy_seed(rng: np.random.Generator) -> int:
    """Draw a seed for scikit-learn's generators, which take none of NumPy's newer ones."""
    return int(rng.integers(2**31))


_TABLES: dict[str, Callable[[np.random.Generator], Table]] = {
    "diabetes": lambda rng: _loaded("load_diabetes"),
    "breast_cancer": _breast_cancer,
    "wine": lambda rng: _loaded("load_wine"),
    "digits": lambda rng: _loaded("load_digits"),
    "friedman1": _friedman,
    "make_regression": _regression,
}

BUNDLED = tuple(_TABLES)
"""Names that `bundled_market` takes."""


def bundled_market(
    name: str,
    buyers: int = 40,
    *,
    validation: int = 30,
    rng: np.random.Generator,
) -> Market:
    """Make a market of a table that comes with scikit-learn, or of one of its generators.

    The table is split at random into buyers' queries, validation rows and sellers' rows. Features
    are standardised, a constant column is appended, and all rows are divided by the mean norm of a
    row; labels are standardised (classes count as numbers, those of breast cancer as -1 and 1).
    Every figure of this preparation comes from the sellers' rows alone.

    Parameters
    ----------
    name
        One of `BUNDLED`.
    buyers, validation
        Numbers of rows that are split off.
    rng
        Source of all randomness.

    Raises
    ------
    ValueError
        For an unknown name, or where no row would be left to sell.
    """
    if name not in _TABLES:
        raise ValueError(f"name must be one of {', '.join(BUNDLED)}, not {name!r}")
    rows, labels = _TABLES[name](rng)
    if buyers + validation >= len(rows):
        raise ValueError(
            f"{name} has {len(rows)} rows; {buyers} buyers and {validation} validation rows leave"
            " none to sell"
        )
    mixed = rng.permutation(len(rows))
    buyer, judge, seller = np.split(mixed, [buyers, buyers + validation])
    rows = _prepared(rows.astype(np.float64), seller)
    labels = _standardised(labels.astype(np.float64), seller)
    return Market(
        name=name,
        rows_nd=rows[seller],
        labels_n=labels[seller],
        clean_n=labels[seller],
        queries_md=rows[buyer],
        answers_m=labels[buyer],
        validation_vd=rows[judge],
        validation_labels_v=labels[judge],
        prices_n=np.ones(len(seller)),
    )


def _standardised(values: np.ndarray, seller: np.ndarray) -> np.ndarray:
    spread: Any = values[seller].std(axis=0)
    # A column that is constant, such as a pixel of the border, carries nothing: it becomes 0.
    return (values - values[seller].mean(axis=0)) / np.where(spread > 0, spread, np.inf)


def _prepared(rows: np.ndarray, seller: np.ndarray) -> np.ndarray:
    rows = np.column_stack([_standardised(rows, seller), np.ones(len(rows))])
    return rows / np.linalg.norm(rows[seller], axis=1).mean()
