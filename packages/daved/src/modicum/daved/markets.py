"""Data markets to try purchases on: generated ones and tables that come with scikit-learn.

Makes rows, labels and buyers; buys nothing and measures nothing. Everything random comes from the
generator that is handed in. scikit-learn is loaded by the first bundled table.

Shapes: n sellers' rows, d features, m buyers (one query each), v labelled validation rows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

__all__ = [
    "BUNDLED",
    "CORRUPTIONS",
    "QUALITIES",
    "Market",
    "bundled_folds",
    "bundled_market",
    "corrupt_labels",
    "gaussian_market",
    "inflate_rows",
    "mislabelled_market",
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

CORRUPTIONS = ("noise", "shift")
"""What `corrupt_labels` puts in the place of a label."""
SHIFT = 2.0
"""By how many standard deviations of the labels a shifted label is too high."""


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
    prices_n, quality_n = _priced(len(market.rows_nd), quality, prices, rng)
    noise_n = noise / quality_n
    labels_n = market.clean_n + noise_n * rng.standard_normal(len(prices_n))
    return replace(market, labels_n=labels_n, prices_n=prices_n, noise_var_n=np.square(noise_n))


def mislabelled_market(
    market: Market,
    quality: str = "sqrt",
    *,
    prices: tuple[float, ...] = PRICES,
    rng: np.random.Generator,
) -> Market:
    """Give every record a price as the published code does: labels are multiplied by the quality.

    The features stay as they are, and so do the buyers' answers. A record of price 1 is right, and
    the dearer a record is, the more its label is off: the reverse of `priced_market`.

    Parameters
    ----------
    market
        Where the rows and labels come from.
    quality
        How the factor grows with the price, one of `QUALITIES`.
    prices
        Prices to draw from, uniformly.
    rng
        Source of all randomness.

    Raises
    ------
    ValueError
        For an unknown quality.
    """
    prices_n, quality_n = _priced(len(market.rows_nd), quality, prices, rng)
    return replace(market, labels_n=quality_n * market.labels_n, prices_n=prices_n)


def _priced(
    n: int, quality: str, prices: tuple[float, ...], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw prices and give the quality at each, (n,) both."""
    if quality not in QUALITIES:
        raise ValueError(f"quality must be one of {sorted(QUALITIES)}, not {quality!r}")
    prices_n = rng.choice(np.asarray(prices, dtype=np.float64), size=n)
    return prices_n, QUALITIES[quality](prices_n)


def corrupt_labels(
    market: Market, share: float, kind: str, rng: np.random.Generator
) -> tuple[Market, np.ndarray]:
    """Let some sellers deliver worthless labels; features and prices do not show which.

    Parameters
    ----------
    market
        Where everything else comes from.
    share
        Share of the records, from 0 to 1, rounded to whole records.
    kind
        ``"noise"``: Gaussian with the mean and the standard deviation of all labels, whatever the
        features are. ``"shift"``: too high by two of these standard deviations.
    rng
        Source of all randomness.

    Returns
    -------
    market, indices
        A new market, and which records were corrupted, ascending.

    Raises
    ------
    ValueError
        For an unknown kind, or a share outside [0, 1].
    """
    if kind not in CORRUPTIONS:
        raise ValueError(f"kind must be one of {', '.join(CORRUPTIONS)}, not {kind!r}")
    if not 0 <= share <= 1:
        raise ValueError(f"share must be from 0 to 1, not {share!r}")
    n = len(market.labels_n)
    indices = np.sort(rng.choice(n, size=round(share * n), replace=False))
    mean, spread = market.labels_n.mean(), market.labels_n.std()
    labels_n = market.labels_n.copy()
    if kind == "noise":
        labels_n[indices] = mean + spread * rng.standard_normal(len(indices))
    else:
        labels_n[indices] += SHIFT * spread
    return replace(market, labels_n=labels_n), indices


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
    rows, labels = _table(name, rng)
    if buyers + validation >= len(rows):
        raise ValueError(
            f"{name} has {len(rows)} rows; {buyers} buyers and {validation} validation rows leave"
            " none to sell"
        )
    mixed = rng.permutation(len(rows))
    buyer, judge, seller = np.split(mixed, [buyers, buyers + validation])
    return _market(name, rows, labels, buyer, judge, seller)


def bundled_folds(
    name: str,
    folds: int = 5,
    *,
    buyers: int | None = None,
    validation: int = 30,
    rng: np.random.Generator,
) -> Iterator[Market]:
    """Split a table as `bundled_market` does, but so that every row belongs to one fold's buyers.

    The rows are dealt into folds at random. For each fold its rows are the buyers' queries, and the
    rows of all other folds are the validation rows and the sellers'; preparation is by the sellers'
    rows of that fold alone.

    Parameters
    ----------
    name
        One of `BUNDLED`.
    folds
        Number of folds, at least 2.
    buyers
        Buyers of every fold at most; the rest of the fold stays out of the market.
    validation
        Number of validation rows.
    rng
        Source of all randomness.

    Yields
    ------
    Market
        One for each fold.

    Raises
    ------
    ValueError
        For an unknown name, fewer than 2 folds or more than rows, no buyers, or where no row would
        be left to sell.
    """
    rows, labels = _table(name, rng)
    if not 2 <= folds <= len(rows):
        raise ValueError(f"folds must be from 2 to the {len(rows)} rows of {name}, not {folds}")
    if buyers is not None and buyers < 1:
        raise ValueError(f"buyers must be positive, not {buyers}")
    dealt = np.array_split(rng.permutation(len(rows)), folds)
    if validation >= len(rows) - len(dealt[0]):
        raise ValueError(
            f"{name} has {len(rows)} rows; {folds} folds and {validation} validation rows leave"
            " none to sell"
        )
    for number, fold in enumerate(dealt):
        others = rng.permutation(np.concatenate([*dealt[:number], *dealt[number + 1 :]]))
        judge, seller = np.split(others, [validation])
        yield _market(name, rows, labels, fold[:buyers], judge, seller)


def _table(name: str, rng: np.random.Generator) -> Table:
    if name not in _TABLES:
        raise ValueError(f"name must be one of {', '.join(BUNDLED)}, not {name!r}")
    rows, labels = _TABLES[name](rng)
    return rows.astype(np.float64), labels.astype(np.float64)


def _market(
    name: str,
    rows: np.ndarray,
    labels: np.ndarray,
    buyer: np.ndarray,
    judge: np.ndarray,
    seller: np.ndarray,
) -> Market:
    """Prepare a table by its sellers' rows and hand out its parts, given by their rows' numbers."""
    rows, labels = _prepared(rows, seller), _standardised(labels, seller)
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
