# /// script
# requires-python = ">=3.11,<3.13"
# dependencies = ["pydvl==0.10.0"]
# ///
"""pyDVL 0.10.0, in an environment of its own (it needs numpy below 2).

uv run --script pydvl_worker.py FOLDER
"""

import warnings

warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
from _worker import Task, run  # noqa: E402
from pydvl.valuation import (  # noqa: E402
    DataOOBValuation,
    Dataset,
    KNNShapleyValuation,
    LOOValuation,
    MaxUpdates,
    MinUpdates,
    ModelUtility,
    MSRBanzhafValuation,
    SupervisedScorer,
    TMCShapleyValuation,
)
from sklearn.ensemble import BaggingClassifier, BaggingRegressor  # noqa: E402
from sklearn.linear_model import LinearRegression, Ridge  # noqa: E402
from sklearn.neighbors import KNeighborsClassifier  # noqa: E402
from sklearn.tree import DecisionTreeClassifier  # noqa: E402


def _utility(task: Task) -> ModelUtility:
    points = Dataset(task.X_val, task.y_val)
    scorer = SupervisedScorer("neg_mean_squared_error", points, default=task.empty)
    model = Ridge(alpha=task.alpha, fit_intercept=False)
    return ModelUtility(model, scorer, catch_errors=False, show_warnings=False)


def _values(valuation, task: Task) -> np.ndarray:
    result = valuation.fit(Dataset(task.X, task.y)).result
    values = np.empty(len(task.X))
    values[result.indices] = result.values
    return values


def knn_shapley(task: Task) -> np.ndarray:
    model = KNeighborsClassifier(n_neighbors=task.neighbours)
    points = Dataset(task.X_val, task.y_val)
    return _values(KNNShapleyValuation(model, points, progress=False), task)


def data_oob(task: Task) -> np.ndarray:
    settings = {"n_estimators": task.models, "random_state": task.seed}
    if task.classes:
        model = BaggingClassifier(DecisionTreeClassifier(), **settings)
    else:
        model = BaggingRegressor(LinearRegression(fit_intercept=False), **settings)
    return _values(DataOOBValuation(model.fit(task.X, task.y)), task)


def data_shapley(task: Task) -> np.ndarray:
    done = MinUpdates(task.orders)
    return _values(TMCShapleyValuation(_utility(task), is_done=done, seed=task.seed), task)


def banzhaf(task: Task) -> np.ndarray:
    # A row's count is that of the sets with it or of those without it, whichever are fewer: the
    # first row comes to half of the sets after about as many as there shall be.
    done = MaxUpdates(task.sets // 2)
    return _values(MSRBanzhafValuation(_utility(task), is_done=done, seed=task.seed), task)


def leave_one_out(task: Task) -> np.ndarray:
    return _values(LOOValuation(_utility(task)), task)


if __name__ == "__main__":
    run(
        "pydvl",
        {
            "KNN-Shapley": knn_shapley,
            "Data-OOB": data_oob,
            "Data Shapley": data_shapley,
            "Banzhaf": banzhaf,
            "leave one out": leave_one_out,
        },
        ["pydvl", "numpy", "scikit-learn"],
    )
