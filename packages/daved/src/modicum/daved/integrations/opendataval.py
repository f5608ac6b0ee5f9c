"""Selections as a data evaluator of OpenDataVal, for its experiments and beside its evaluators.

The queries are its validation covariates; its validation labels are not looked at. Importing this
module adds the evaluator to the names that OpenDataVal's own commands know.

Needs ``pip install "opendataval>=1.3"``, which asks for numpy below 1.26 and torch 2.1; it also
works with newer ones where an installer is told to override these.
"""

from typing import Any, Self

import numpy as np
from sklearn.utils import check_random_state

try:
    from opendataval.dataval.api import (  # type: ignore[import-not-found]
        DataEvaluator,
        ModelLessMixin,
    )
except ImportError as error:
    raise ImportError(
        'evaluators for OpenDataVal need it: pip install "modicum-daved" "opendataval>=1.3"'
    ) from error

from modicum.daved.estimator import DAVED
from modicum.daved.integrations.values import values_of
from modicum.daved.validation import check_one_of

__all__ = ["DAVEDEvaluator"]

_LARGEST_SEED = 2**31 - 1


class DAVEDEvaluator(DataEvaluator, ModelLessMixin):  # type: ignore[misc]
    """Value training points by a design for the validation points' features.

    Parameters
    ----------
    solver
        As for `modicum.daved.estimator.DAVED`.
    values
        ``"weights"``: the design's weights, by which a purchase ranks; points that no step picked
        come below all others, by their score. ``"scores"``: -∂L/∂w_j.
    budget
        Points that shall be bought, a hint for the number of iterations; greedy purchases end
        there. 100 by default.
    embedding_model
        OpenDataVal's model whose predictions are the features; the covariates themselves by
        default.
    random_state
        Seed or state, as OpenDataVal has them.
    **settings
        Further parameters of `modicum.daved.estimator.DAVED`.

    Attributes
    ----------
    market_
        The fitted `modicum.daved.estimator.DAVED`, which also buys: ``market_.select(budget)``.

    Notes
    -----
    Source: "DAVED: Data Acquisition via Experimental Design for Data Markets", Lu et al.,
    NeurIPS 2024, arXiv 2403.13893.
    """

    def __init__(
        self,
        solver: str = "fw",
        values: str = "weights",
        budget: float | None = None,
        embedding_model: Any = None,
        random_state: Any = None,
        **settings: Any,
    ) -> None:
        super().__init__(random_state=random_state)
        self.solver = solver
        self.values = check_one_of("values", values, ("weights", "scores"))
        self.budget = budget
        self.embedding_model = embedding_model
        self.settings = settings

    def train_data_values(self, *args: Any, **kwargs: Any) -> Self:
        """Find the design. The arguments, which are for training a model, have no use here."""
        rows, queries = self.embeddings(self.x_train, self.x_valid)
        seed = int(check_random_state(self.random_state).randint(_LARGEST_SEED))
        settings = {"random_state": seed, "progress": False, **self.settings}
        market = DAVED(self.solver, **settings)
        self.market_ = market.fit(_flat(rows), _flat(queries), budget=self.budget)
        return self

    def evaluate_data_values(self) -> np.ndarray:
        """Give every training point its value, (n,)."""
        if self.values == "scores":
            return np.asarray(self.market_.scores_)
        return values_of(self.market_.weights_, self.market_.scores_)


def _flat(points: Any) -> Any:
    """Give points of any shape, such as images, as rows."""
    return points.reshape(len(points), -1) if hasattr(points, "reshape") else points
