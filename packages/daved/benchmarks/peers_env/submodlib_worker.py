# /// script
# requires-python = ">=3.11,<3.13"
# dependencies = ["submodlib-py==0.0.3"]
# ///
"""submodlib-py 0.0.3, in an environment of its own.

uv run --script submodlib_worker.py FOLDER
"""

import numpy as np
from _worker import Task, run
from submodlib import FacilityLocationVariantMutualInformationFunction


def flqmi(task: Task) -> np.ndarray:
    """Give for each buyer the greedy order of the rows' mutual information with the query.

    The function that its authors' later papers call FLQMI; cosine similarity, its default.
    """
    orders = []
    for query in task.Q:
        function = FacilityLocationVariantMutualInformationFunction(
            n=len(task.X), num_queries=1, data=task.X, queryData=query[None], metric="cosine"
        )
        bought = function.maximize(task.budget, optimizer="LazyGreedy", show_progress=False)
        orders.append([row for row, _ in bought])
    return np.array(orders)


if __name__ == "__main__":
    run("submodlib", {"FLQMI": flqmi}, ["submodlib-py", "numpy"])
