"""Purchases as a query strategy of scikit-activeml: which points to label for these queries.

Needs ``pip install "scikit-activeml>=1.0"``.

Shapes: n samples, d features, m queries, c candidates, l labelled samples, b samples of a batch.
"""

from typing import Any

import numpy as np

try:
    from skactiveml.base import (  # type: ignore[import-not-found]
        SingleAnnotatorPoolQueryStrategy,
    )
    from skactiveml.utils import MISSING_LABEL, is_labeled  # type: ignore[import-not-found]
except ImportError as error:
    raise ImportError(
        'query strategies for scikit-activeml need it: pip install "modicum-daved" '
        '"scikit-activeml>=1.0"'
    ) from error

from modicum.daved.integrations.values import values_of
from modicum.daved.select import select
from modicum.daved.selection import Selection
from modicum.daved.solvers.greedy import default_prior
from modicum.daved.validation import check_one_of

__all__ = ["DAVEDQueryStrategy"]

_SOLVERS = ("greedy", "fw", "multiplicative")


class DAVEDQueryStrategy(SingleAnnotatorPoolQueryStrategy):  # type: ignore[misc]
    """Ask for the labels with which a linear model predicts given points best.

    Other strategies learn about the pool; this one is for one set of points without labels, the
    evaluation points, and needs no model. What is labelled already counts as owned.

    Parameters
    ----------
    solver
        ``"greedy"``: one sample after the other, each the one that lowers the posterior variance of
        the evaluation points most. ``"fw"`` and ``"multiplicative"``: by the weights of a design.
    prior
        Prior precision of the coefficients; by default .05 times the samples' mean squared norm.
    missing_label
        What stands for a label that is not there.
    random_state
        Has no use: ties are broken by the smallest index.

    Notes
    -----
    Source: "DAVED: Data Acquisition via Experimental Design for Data Markets", Lu et al.,
    NeurIPS 2024, arXiv 2403.13893. Greedy purchases are variance reduction for a linear model.
    """

    def __init__(
        self,
        solver: str = "greedy",
        prior: float | None = None,
        missing_label: Any = MISSING_LABEL,
        random_state: Any = None,
    ) -> None:
        super().__init__(missing_label=missing_label, random_state=random_state)
        self.solver = solver
        self.prior = prior

    def query(
        self,
        X: Any,
        y: Any,
        X_eval: Any,
        candidates: Any = None,
        batch_size: int = 1,
        return_utilities: bool = False,
    ) -> Any:
        """Say for which candidates labels are to be asked.

        Parameters
        ----------
        X
            All samples, (n, d).
        y
            Their labels, (n,), of which only is looked at whether they are there.
        X_eval
            Points that are to be predicted, (m, d), without labels.
        candidates
            Indices of samples, (c,), or samples that need not be in `X`, (c, d); by default the
            samples without labels.
        batch_size
            Number of samples.
        return_utilities
            Whether to give utilities too.

        Returns
        -------
        query_indices : numpy.ndarray
            (b,), in the order of purchase: positions in `X`, or in `candidates` where these are
            samples.
        utilities : numpy.ndarray
            If asked for, (b, n) or (b, c): of every sample when each of the batch was chosen; nan
            for what is no candidate or chosen already. With ``"greedy"`` by how much a sample
            lowers the posterior variance, else its design weight; samples that no step picked come
            below all others, by their score.
        """
        X, y, candidates, batch_size, return_utilities = self._validate_data(
            X, y, candidates, batch_size, return_utilities, check_X_dict={"ensure_2d": True}
        )
        check_one_of("solver", self.solver, _SOLVERS)
        candidates_cd, mapping = self._transform_candidates(candidates, X, y)
        owned_ld = X[is_labeled(y, self.missing_label_)]
        prior = default_prior(X.T @ X, len(X)) if self.prior is None else self.prior
        found = select(
            candidates_cd,
            X_eval,
            batch_size,
            solver=self.solver,
            prior=prior,
            X_owned=owned_ld if len(owned_ld) else None,
        )
        chosen_b = found.indices
        positions = np.arange(len(candidates_cd)) if mapping is None else mapping
        if not return_utilities:
            return positions[chosen_b]
        if self.solver == "greedy":
            utilities_bc = _gains(candidates_cd, X_eval, owned_ld, prior, chosen_b)
        else:
            utilities_bc = _weights(found)
        width = len(candidates_cd) if mapping is None else len(X)
        utilities = np.full((len(chosen_b), width), np.nan)
        utilities[:, positions] = utilities_bc
        return positions[chosen_b], utilities


def _gains(
    rows_cd: np.ndarray, asked: Any, owned_ld: np.ndarray, prior: float, chosen_b: np.ndarray
) -> np.ndarray:
    """Give by how much every candidate lowers the posterior variance before each choice, (b, c)."""
    queries_md = np.asarray(asked, dtype=np.float64)
    rows_cd = np.asarray(rows_cd, dtype=np.float64)
    precision_dd = prior * np.eye(rows_cd.shape[1]) + owned_ld.T @ owned_ld
    gains_bc = np.empty((len(chosen_b), len(rows_cd)))
    for place, chosen in enumerate(chosen_b):
        products_dc = np.linalg.solve(precision_dd, rows_cd.T)
        leverages_c = np.einsum("cd,dc->c", rows_cd, products_dc)
        gains_bc[place] = np.square(queries_md @ products_dc).mean(axis=0) / (1 + leverages_c)
        gains_bc[place, chosen_b[:place]] = np.nan
        precision_dd = precision_dd + np.outer(rows_cd[chosen], rows_cd[chosen])
    return gains_bc


def _weights(found: Selection) -> np.ndarray:
    """Give every candidate's weight, without what was chosen before each choice, (b, c)."""
    weights_bc = np.tile(values_of(found.weights, found.scores), (len(found), 1))
    for place in range(len(found)):
        weights_bc[place, found.indices[:place]] = np.nan
    return weights_bc
