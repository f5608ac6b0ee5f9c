"""What a selection gives back: what to buy, what it costs, what it is worth, how good it can be.

A `Selection` holds numbers only and knows nothing of how they were found. It goes into JSON and
comes back equal; its purchase plan goes into CSV and Parquet.

Shapes: n records, m queries, k bought.
"""

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import numpy as np

from modicum.daved.solvers.base import Step
from modicum.daved.validation import check_positive

__all__ = ["PlanRow", "Selection"]

_INTEGERS = ("indices", "picks")
_ARRAYS = (
    *_INTEGERS,
    "weights",
    "scores",
    "fair_price",
    "prices",
    "coverage",
    "marginal_benefit",
)


@dataclass(frozen=True)
class PlanRow:
    """One purchase of a plan.

    Attributes
    ----------
    item
        Position of the record in the pool.
    label
        Its label, or its position where records have none.
    price
        What is paid for it, in currency; of a record in a lot an equal share of the lot's price.
    marginal_benefit
        By how much it lowers the predicted error after the purchases above it.
    spent
        What is spent up to and with it, in currency.
    predicted_error
        Predicted excess squared error with it and all above it.
    """

    item: int
    label: Any
    price: float
    marginal_benefit: float
    spent: float
    predicted_error: float


@dataclass(frozen=True, eq=False)
class Selection:
    """A purchase and the design behind it.

    Attributes
    ----------
    indices
        Records to buy, (k,) int64, in the order of purchase, each once.
    weights
        Design weights, (n,) float64, which spend the budget: Σ c_j w_j = B. Of a greedy purchase,
        which has no relaxed design, 1 on what is bought.
    spent
        Price of the purchase, in currency.
    budget
        B, in currency.
    objective
        L at `weights`, in units of label-noise variance: the predicted excess squared error of the
        relaxed design; of a greedy purchase its posterior variance.
    gap
        `objective` minus the optimum is at most this; nan where there is no certificate.
    scores
        -∂L/∂w_j, (n,).
    fair_price
        Price up to which each record is worth buying, (n,), in currency; exact at the optimum.
    prices
        Price of each record, (n,).
    coverage
        Share of each query's squared length in the span of the sellers' rows, (m,).
    prior_error
        Posterior variance of the queries before the first purchase, in units of label-noise
        variance.
    marginal_benefit
        By how much each purchase lowers that variance, (k,).
    converged
        Whether the certificate is below the tolerance.
    history, picks
        Iterations (in the solver's own unit: weights of sum 1) and the row picked in each.
    labels
        Labels of all records, (n,); None where the position is the label.
    lots
        Labels of the lots that are bought, in order; None where records are sold one by one.
    settings
        Solver and settings by name, for a manifest.
    """

    indices: np.ndarray
    weights: np.ndarray
    spent: float
    budget: float
    objective: float
    gap: float
    scores: np.ndarray
    fair_price: np.ndarray
    prices: np.ndarray
    coverage: np.ndarray
    prior_error: float
    marginal_benefit: np.ndarray
    converged: bool = False
    history: tuple[Step, ...] = ()
    picks: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    labels: np.ndarray | None = None
    lots: tuple[Any, ...] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.indices)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Selection):
            return NotImplemented
        # As text, so that nan equals nan.
        return self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]

    @property
    def efficiency(self) -> float:
        """Lower bound of optimum / objective, between 0 and 1; nan without a certificate."""
        from modicum.daved.theory import efficiency

        return efficiency(self.gap, self.objective) if self.gap == self.gap else float("nan")

    @property
    def predicted_error(self) -> np.ndarray:
        """Posterior variance after each purchase, (k,), in units of label-noise variance."""
        return self.prior_error - np.cumsum(self.marginal_benefit)

    @property
    def bought_labels(self) -> np.ndarray:
        """Labels of what is bought, (k,); positions where there are none."""
        return self.indices if self.labels is None else self.labels[self.indices]

    def plan(self, sigma2: float = 1.0) -> list[PlanRow]:
        """Give the purchases one by one.

        Parameters
        ----------
        sigma2
            Variance of the label noise, the unit of errors.

        Returns
        -------
        list of PlanRow
            In the order of purchase.

        Notes
        -----
        Errors are posterior variances under a prior on the coefficients, as in greedy purchases:
        with fewer records than features no other finite prediction holds for a set. The objective
        of the relaxed design is a different number.
        """
        check_positive("sigma2", sigma2)
        prices_k = self.prices[self.indices]
        columns = (
            self.indices.tolist(),
            self.bought_labels.tolist(),
            prices_k.tolist(),
            (sigma2 * self.marginal_benefit).tolist(),
            np.cumsum(prices_k).tolist(),
            (sigma2 * self.predicted_error).tolist(),
        )
        return [PlanRow(*row) for row in zip(*columns, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Give all fields as plain lists, numbers and strings."""
        found = {item.name: getattr(self, item.name) for item in fields(self)}
        for name in _ARRAYS:
            found[name] = found[name].tolist()
        found["history"] = [asdict(step) for step in self.history]
        found["labels"] = None if self.labels is None else _plain(self.labels)
        found["lots"] = None if self.lots is None else _plain(self.lots)
        found["settings"] = dict(self.settings)
        return found

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make a selection of what `to_dict` gave.

        Raises
        ------
        ValueError
            If a field is missing or unknown.
        """
        names = {item.name for item in fields(cls)}
        if set(values) != names:
            raise ValueError(
                f"these are not the fields of a selection: missing {sorted(names - set(values))}, "
                f"unknown {sorted(set(values) - names)}"
            )
        found = dict(values)
        for name in _ARRAYS:
            kind = np.int64 if name in _INTEGERS else np.float64
            found[name] = np.asarray(found[name], dtype=kind)
        found["history"] = tuple(Step(**step) for step in found["history"])
        if found["labels"] is not None:
            found["labels"] = _array_of(found["labels"])
        if found["lots"] is not None:
            found["lots"] = tuple(found["lots"])
        return cls(**found)

    def to_json(self, path: Any = None) -> str:
        """Give the selection as JSON, and write it to a file that is always whole.

        Parameters
        ----------
        path
            Where to write it; nowhere by default.
        """
        from modicum.core.experiment import dumps, write_atomic

        text = dumps(self.to_dict())
        if path is not None:
            write_atomic(path, text)
        return text

    @classmethod
    def from_json(cls, source: Any) -> Self:
        """Read what `to_json` gave: its text, or a path of a file with it."""
        from modicum.core.experiment import loads

        is_text = isinstance(source, str) and source.lstrip().startswith("{")
        return cls.from_dict(loads(source if is_text else Path(source).read_text("utf-8")))

    def to_csv(self, path: Any = None, sigma2: float = 1.0) -> str:
        """Give the purchase plan as CSV with a header, and write it to a file, always whole.

        Parameters
        ----------
        path
            Where to write it; nowhere by default.
        sigma2
            Variance of the label noise.
        """
        from modicum.core.experiment import write_atomic

        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, [item.name for item in fields(PlanRow)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in self.plan(sigma2))
        if path is not None:
            write_atomic(path, text.getvalue())
        return text.getvalue()

    def to_parquet(self, path: Any, sigma2: float = 1.0) -> None:
        """Write the purchase plan as a Parquet file with the columns of `PlanRow`, always whole.

        Parameters
        ----------
        path
            Where to write it; it ends in .parquet.
        sigma2
            Variance of the label noise.

        Raises
        ------
        ValueError
            If the path ends otherwise.
        ImportError
            Without pyarrow: ``pip install "modicum-daved[parquet]"``.
        """
        from modicum.daved.integrations.tables import write_plan

        if Path(path).suffix != ".parquet":
            raise ValueError(f"path has to end in .parquet, not {str(path)!r}")
        write_plan(path, self, sigma2)


def _array_of(labels: list[Any]) -> np.ndarray:
    """Give labels as an array that does not turn them into those of one type."""
    if len({type(label) for label in labels}) == 1:
        return np.asarray(labels)
    found_n = np.empty(len(labels), dtype=object)
    found_n[:] = labels
    return found_n


def _plain(labels: Any) -> list[Any]:
    """Give labels as JSON has them: numbers, strings and booleans as they are, others as text."""
    values = labels.tolist() if isinstance(labels, np.ndarray) else list(labels)
    values = [value.item() if isinstance(value, np.generic) else value for value in values]
    return [
        value if isinstance(value, str | int | float | bool) else str(value) for value in values
    ]
