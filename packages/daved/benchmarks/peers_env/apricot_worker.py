# /// script
# requires-python = ">=3.11,<3.13"
# dependencies = ["apricot-select==0.6.1", "numpy<2", "scikit-learn", "setuptools<81"]
# ///
"""apricot-select 0.6.1, in an environment of its own.

uv run --script apricot_worker.py FOLDER
"""

import numpy as np
from _worker import Task, run
from apricot import FacilityLocationSelection


def facility_location(task: Task) -> np.ndarray:
    chosen = FacilityLocationSelection(task.budget, metric="euclidean").fit(task.X)
    return np.tile(chosen.ranking, (len(task.Q), 1))


if __name__ == "__main__":
    run("apricot", {"facility location": facility_location}, ["apricot-select", "numpy", "numba"])
