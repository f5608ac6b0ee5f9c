"""What every worker of the benchmark beside peers does: read tasks, run methods, write values.

A worker runs in an environment of its own, with one library and without this package. It takes a
folder of tasks ``NAME.npz`` and writes ``NAME.LIBRARY.npz`` beside each, with what the methods
found, and ``NAME.LIBRARY.json`` with seconds, failures and versions. A method that raises is
written down with its error; the others go on.

Shapes: n rows, d features, v validation points, m buyers, k rows bought.
"""

import json
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Task:
    """A market and the settings of the methods.

    Parameters
    ----------
    methods
        Which to run.
    X, y
        The sellers' rows, (n, d), and labels, (n,): numbers, or classes 0, 1, … as integers.
    X_val, y_val
        Labelled points of the buyer, (v, d) and (v,).
    Q
        One query of each buyer, (m, d).
    alpha
        Penalty of the ridge regression.
    empty
        Utility of no rows: minus the mean square of the validation labels.
    neighbours, models, orders, sets
        Settings of KNN-Shapley, Data-OOB, Data Shapley and Banzhaf values.
    budget
        Rows that a ranking must have at least.
    seed
        Of the method's randomness.
    """

    methods: list[str]
    X: np.ndarray
    y: np.ndarray
    X_val: np.ndarray
    y_val: np.ndarray
    Q: np.ndarray
    alpha: float
    empty: float
    neighbours: int
    models: int
    orders: int
    sets: int
    budget: int
    seed: int

    @property
    def classes(self) -> int:
        """Number of classes; 0 where labels are numbers."""
        if self.y.dtype.kind != "i":
            return 0
        return int(max(self.y.max(), self.y_val.max())) + 1


def read(path: Path) -> Task:
    """Read a task."""
    with np.load(path) as found:
        return Task(
            **{
                name: found[name].tolist() if found[name].ndim == 0 or name == "methods" else value
                for name, value in found.items()
            }
        )


Found = dict[str, np.ndarray]
Method = Callable[[Task], np.ndarray]


def run(library: str, methods: dict[str, Method], packages: list[str]) -> None:
    """Run a library's methods on all tasks of the folder that the command line names.

    Parameters
    ----------
    library
        Part of the names of the files that are written.
    methods
        By name; each gives a value of every row, (n,) floats, or for every buyer the rows in the
        order of purchase, (m, k) integers.
    packages
        Distributions whose versions are noted, the library first.
    """
    folder = Path(sys.argv[1])
    versions = {name: version(name) for name in packages}
    for path in sorted(folder.glob("*.npz")):
        if path.stem.count("."):
            continue
        task = read(path)
        values: Found = {}
        seconds: dict[str, float] = {}
        failures: dict[str, str] = {}
        for name in task.methods:
            if name not in methods:
                continue
            start = time.perf_counter()
            try:
                values[name] = np.asarray(methods[name](task))
            except Exception as error:
                traceback.print_exc()
                failures[name] = f"{type(error).__name__}: {error}"
            seconds[name] = time.perf_counter() - start
            print(f"{library}, {path.stem}, {name}: {seconds[name]:.1f} s", file=sys.stderr)
        np.savez(folder / f"{path.stem}.{library}.npz", **values)
        noted = {"seconds": seconds, "failures": failures, "versions": versions}
        (folder / f"{path.stem}.{library}.json").write_text(json.dumps(noted))
