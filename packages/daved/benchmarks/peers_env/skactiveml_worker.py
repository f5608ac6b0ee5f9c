# /// script
# requires-python = ">=3.11,<3.13"
# dependencies = ["scikit-activeml==1.0.1"]
# ///
"""scikit-activeml 1.0.1, in an environment of its own.

uv run --script skactiveml_worker.py FOLDER
"""

import numpy as np
from _worker import Task, run
from skactiveml.pool import CoreSet, GreedySamplingX


def _order(strategy, task: Task) -> np.ndarray:
    chosen = strategy.query(task.X, np.full(len(task.X), np.nan), batch_size=task.budget)
    return np.tile(chosen, (len(task.Q), 1))


def greedy_sampling(task: Task) -> np.ndarray:
    return _order(GreedySamplingX(random_state=task.seed), task)


def core_set(task: Task) -> np.ndarray:
    return _order(CoreSet(random_state=task.seed), task)


if __name__ == "__main__":
    run(
        "skactiveml",
        {"greedy sampling": greedy_sampling, "core-set": core_set},
        ["scikit-activeml", "numpy", "scikit-learn"],
    )
