"""What a peer is: another way to say which of the sellers' rows to buy first.

A peer takes rows, and what else it declares to see, and gives every row a value. It is shown
nothing that it does not declare, so that a table can say honestly which peers needed labels. It
knows nothing of budgets: it gives an order, and whoever buys walks down that order.

Shapes: n rows, d features, m queries, v validation points.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

__all__ = [
    "LABELS",
    "PRICES",
    "QUERIES",
    "VALIDATION",
    "Peer",
    "View",
    "check_positive",
    "order_of",
]

LABELS = "labels"
"""The sellers' labels, before anything was paid for them."""
QUERIES = "queries"
"""The buyer's queries, without labels."""
PRICES = "prices"
"""What the sellers ask for each row."""
VALIDATION = "validation"
"""Labelled points of the buyer."""

_FIELDS = {
    LABELS: ("labels_n",),
    QUERIES: ("queries_md",),
    PRICES: ("prices_n",),
    VALIDATION: ("validation_rows_vd", "validation_labels_v"),
}


@dataclass(frozen=True)
class View:
    """What may be looked at; what a peer does not declare to see is None when it is asked.

    Attributes
    ----------
    rows_nd
        The sellers' rows, (n, d) float64.
    labels_n
        Their labels, (n,) or (n, q).
    queries_md
        The buyer's rows, (m, d) float64.
    prices_n
        What is paid for each row, (n,) float64.
    validation_rows_vd, validation_labels_v
        Labelled points of the buyer, (v, d) and (v,) or (v, q).
    """

    rows_nd: np.ndarray
    labels_n: np.ndarray | None = None
    queries_md: np.ndarray | None = None
    prices_n: np.ndarray | None = None
    validation_rows_vd: np.ndarray | None = None
    validation_labels_v: np.ndarray | None = None

    def restricted(self, sees: frozenset[str]) -> "View":
        """Give the rows and, of all else, only what is named."""
        shown = {name for kind in sees for name in _FIELDS[kind]} | {"rows_nd"}
        return View(**{f.name: getattr(self, f.name) for f in fields(self) if f.name in shown})

    def missing(self, sees: frozenset[str]) -> list[str]:
        """Name the kinds of information that are asked for and are not there."""
        return sorted(
            kind for kind in sees if any(getattr(self, name) is None for name in _FIELDS[kind])
        )


def order_of(values_n: np.ndarray | Sequence[float]) -> np.ndarray:
    """Give the rows from the highest value to the lowest, (n,) int64; ties by smallest index."""
    return np.argsort(-np.asarray(values_n, dtype=np.float64), kind="stable")


def check_positive(**settings: float) -> None:
    """Refuse a setting that is not positive, by its name.

    Raises
    ------
    ValueError
        One is 0, negative or nan.
    """
    for name, value in settings.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}: give a positive number")


class Peer(ABC):
    """A way to value rows: settings in the constructor, one call.

    Attributes
    ----------
    name
        By which the registry knows it.
    sees
        What it looks at beside the sellers' features: any of `LABELS`, `QUERIES`, `PRICES` and
        `VALIDATION`.
    """

    name: ClassVar[str]
    sees: ClassVar[frozenset[str]] = frozenset()

    def values(self, view: View, rng: np.random.Generator) -> np.ndarray:
        """Value every row; the peer is shown only what it declares to see.

        Parameters
        ----------
        view
            The market.
        rng
            Source of all randomness.

        Returns
        -------
        numpy.ndarray
            (n,) float64; the highest is bought first. The scale is the peer's own.

        Raises
        ------
        ValueError
            The market lacks something that the peer needs.
        """
        missing = view.missing(self.sees)
        if missing:
            raise ValueError(f"peer {self.name!r} needs {', '.join(missing)}, and got None")
        return self._values(view.restricted(self.sees), rng)

    def rank(
        self,
        X: np.ndarray,
        y: np.ndarray | None,
        Q: np.ndarray | None,
        costs: np.ndarray | None,
        X_val: np.ndarray | None,
        y_val: np.ndarray | None,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Give all rows in the order of purchase.

        Parameters
        ----------
        X, y
            The sellers' rows, (n, d), and labels, (n,) or (n, q).
        Q
            The buyer's queries, (m, d).
        costs
            Price of each row, (n,); 1 each by default.
        X_val, y_val
            Labelled points of the buyer, (v, d) and (v,) or (v, q).
        rng
            Source of all randomness.

        Returns
        -------
        numpy.ndarray
            (n,) int64, the best row first; ties by smallest index.

        Raises
        ------
        ValueError
            Something that the peer needs is None.
        """
        prices_n = np.ones(len(X)) if costs is None else costs
        return order_of(self.values(View(X, y, Q, prices_n, X_val, y_val), rng))

    @abstractmethod
    def _values(self, view: View, rng: np.random.Generator) -> np.ndarray:
        """Value the rows of a view in which everything that `sees` names is there."""
