# /// script
# requires-python = ">=3.11,<3.13"
# dependencies = ["opendataval==1.3.0"]
#
# [tool.uv]
# override-dependencies = [
#   "numpy==1.26.4",
#   "scipy<1.16",
#   "scikit-learn<1.7",
#   "pandas<3",
#   "pandera<0.24",
#   "torch==2.11.0",
#   "torchvision==0.26.0",
#   "geomloss==0.2.6",
#   "matplotlib",
#   "pykeops",
#   "requests",
#   "torcheval",
#   "tqdm",
#   "typer",
#   "transformers; python_version < '3'",
# ]
# ///
"""OpenDataVal 1.3.0, in an environment of its own.

Its pins (torch 2.1, numpy below 1.26) are overridden: they have no builds that go together with the
Python of today. Its import of DistilBERT fails with transformers of today, and no method here uses
it: a module with empty classes stands in its place.

    uv run --script opendataval_worker.py FOLDER
"""

import sys
from types import ModuleType

stub = ModuleType("transformers")
for name in ("DistilBertModel", "DistilBertTokenizerFast"):
    setattr(stub, name, type(name, (), {}))
sys.modules["transformers"] = stub

import numpy as np  # noqa: E402
import torch  # noqa: E402
from _worker import Task, run  # noqa: E402
from opendataval.dataval import (  # noqa: E402
    DVRL,
    DataBanzhaf,
    DataEvaluator,
    DataOob,
    DataShapley,
    KNNShapley,
    LavaEvaluator,
    LeaveOneOut,
    TMCSampler,
)
from opendataval.metrics import accuracy, neg_mse  # noqa: E402
from opendataval.model import (  # noqa: E402
    ClassifierSkLearnWrapper,
    Model,
    RegressionSkLearnWrapper,
)
from sklearn.linear_model import LinearRegression, Ridge  # noqa: E402
from sklearn.tree import DecisionTreeClassifier  # noqa: E402


def _labels(labels: np.ndarray, classes: int) -> torch.Tensor:
    if classes:
        return torch.nn.functional.one_hot(torch.from_numpy(labels), classes).float()
    return torch.from_numpy(labels).float()[:, None]


def _given(evaluator: DataEvaluator, task: Task) -> DataEvaluator:
    return evaluator.input_data(
        torch.from_numpy(task.X).float(),
        _labels(task.y, task.classes),
        torch.from_numpy(task.X_val).float(),
        _labels(task.y_val, task.classes),
    )


def _modelless(evaluator: DataEvaluator, task: Task) -> np.ndarray:
    return _given(evaluator, task).train_data_values().evaluate_data_values()


def _with_model(evaluator: DataEvaluator, task: Task, model: Model) -> np.ndarray:
    metric = accuracy if task.classes else neg_mse
    evaluator = _given(evaluator, task).input_model_metric(model, metric)
    return evaluator.train_data_values().evaluate_data_values()


def _ridge(task: Task) -> RegressionSkLearnWrapper:
    return RegressionSkLearnWrapper(Ridge, alpha=task.alpha, fit_intercept=False)


def knn_shapley(task: Task) -> np.ndarray:
    return _modelless(KNNShapley(k_neighbors=task.neighbours), task)


def lava(task: Task) -> np.ndarray:
    return _modelless(LavaEvaluator(random_state=task.seed), task)


def data_oob(task: Task) -> np.ndarray:
    if task.classes:
        model = ClassifierSkLearnWrapper(DecisionTreeClassifier, task.classes)
    else:
        model = RegressionSkLearnWrapper(LinearRegression, fit_intercept=False)
    return _with_model(DataOob(task.models, random_state=task.seed), task, model)


def data_shapley(task: Task) -> np.ndarray:
    sampler = TMCSampler(task.orders, min_cardinality=0, cache_name=None, random_state=task.seed)
    return _with_model(DataShapley(sampler), task, _ridge(task))


def banzhaf(task: Task) -> np.ndarray:
    return _with_model(DataBanzhaf(task.sets, random_state=task.seed), task, _ridge(task))


def leave_one_out(task: Task) -> np.ndarray:
    return _with_model(LeaveOneOut(random_state=task.seed), task, _ridge(task))


def dvrl(task: Task) -> np.ndarray:
    return _with_model(DVRL(random_state=task.seed), task, _ridge(task))


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(
        "opendataval",
        {
            "KNN-Shapley": knn_shapley,
            "LAVA": lava,
            "Data-OOB": data_oob,
            "Data Shapley": data_shapley,
            "Banzhaf": banzhaf,
            "leave one out": leave_one_out,
            "DVRL": dvrl,
        },
        ["opendataval", "numpy", "torch", "geomloss", "scikit-learn"],
    )
