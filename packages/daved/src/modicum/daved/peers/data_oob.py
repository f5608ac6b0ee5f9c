"""Rows that models trained without them predict well.

Sees the sellers' labels; no labels of the buyer, no queries, no prices. Kwon & Zou, "Data-OOB:
Out-of-bag Estimate as a Simple and Efficient Data Value", ICML 2023, arXiv 2304.07718: train models
on bootstrap samples; the value of a row is the mean score of its prediction by the models whose
sample it is not in.

Shapes: n rows, d features, q outputs.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from modicum.daved.peers.base import LABELS, Peer, View, check_positive
from modicum.daved.peers.distances import columns

__all__ = ["DataOOB"]

# As many models as the comparison of the source was measured with.
DEFAULT_MODELS = 200
_SEED_LIMIT = 2**31

Fitter = Callable[[np.ndarray, np.ndarray, np.ndarray, int], Callable[[np.ndarray], np.ndarray]]


def _fit_least_squares(
    rows_nd: np.ndarray, labels_nq: np.ndarray, counts_n: np.ndarray, seed: int
) -> Callable[[np.ndarray], np.ndarray]:
    root_k1 = np.sqrt(counts_n)[:, None]
    theta_dq = np.linalg.lstsq(rows_nd * root_k1, labels_nq * root_k1, rcond=None)[0]
    return lambda asked_kd: asked_kd @ theta_dq


def _tree_fitter(classify: bool) -> Fitter:
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    def fit(
        rows_nd: np.ndarray, labels_nq: np.ndarray, counts_n: np.ndarray, seed: int
    ) -> Callable[[np.ndarray], np.ndarray]:
        made = (DecisionTreeClassifier if classify else DecisionTreeRegressor)(random_state=seed)
        made.fit(rows_nd, labels_nq, sample_weight=counts_n)
        return lambda asked_kd: made.predict(asked_kd).reshape(len(asked_kd), -1)

    return fit


class DataOOB(Peer):
    """Value a row by its mean out-of-bag score.

    Parameters
    ----------
    learner
        "tree", decision trees grown to the end, or "least_squares", the fit of smallest norm.
    task
        "regression", score minus the squared error, summed over outputs; "classification", score
        1 where the label is predicted and else 0.
    models
        Number of bootstrap samples.

    Raises
    ------
    ValueError
        An unknown learner or task, classification by least squares, or no models.
    """

    name = "data_oob"
    sees = frozenset({LABELS})

    def __init__(
        self,
        learner: Literal["tree", "least_squares"] = "tree",
        task: Literal["regression", "classification"] = "regression",
        models: int = DEFAULT_MODELS,
    ) -> None:
        if learner not in ("tree", "least_squares"):
            raise ValueError(f"learner is {learner!r}: give 'tree' or 'least_squares'")
        if task not in ("regression", "classification"):
            raise ValueError(f"task is {task!r}: give 'regression' or 'classification'")
        if task == "classification" and learner == "least_squares":
            raise ValueError("least squares predicts numbers: classify with learner='tree'")
        check_positive(models=models)
        self.learner = learner
        self.task = task
        self.models = models

    def _values(self, view: View, rng: np.random.Generator) -> np.ndarray:
        rows_nd, labels_nq = view.rows_nd, columns(view.labels_n)
        n, classify = len(rows_nd), self.task == "classification"
        fit = _tree_fitter(classify) if self.learner == "tree" else _fit_least_squares
        total_n, times_n = np.zeros(n), np.zeros(n)
        for _ in range(self.models):
            counts_n = np.bincount(rng.integers(n, size=n), minlength=n)
            seed = int(rng.integers(_SEED_LIMIT))
            bag, out = counts_n > 0, counts_n == 0
            if not out.any():
                continue
            predict = fit(rows_nd[bag], labels_nq[bag], counts_n[bag], seed)
            off_kq = predict(rows_nd[out]) - labels_nq[out]
            scored_k = (off_kq == 0).all(axis=1) if classify else -np.square(off_kq).sum(axis=1)
            total_n[out] += scored_k
            times_n[out] += 1
        known = times_n > 0
        values_n = np.zeros(n)
        values_n[known] = total_n[known] / times_n[known]
        # Of a row in every bag nothing is known: it stands in the middle.
        values_n[~known] = values_n[known].mean() if known.any() else 0.0
        return values_n
