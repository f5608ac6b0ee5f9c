"""Made-up answers for tests of what experiments say of them."""

import numpy as np

from modicum.core.experiment import Experiment, RunContext
from modicum.pvf.experiments._shared import Answers


def made_up(calls=10.0, rows=None, correct=1.0, valid=1.0, drafts=4, passed=4, count=100):
    """Give answers whose calls and rows vary a little around their means."""
    vary = np.arange(count) % 3 - 1
    calls_N = np.round(100 * calls + 10 * vary).astype(np.int64)
    rows_N = calls_N if rows is None else np.round(100 * rows + 10 * vary).astype(np.int64)
    order = np.arange(count)
    return Answers(
        correct=order < correct * count,
        valid=order < valid * count,
        calls=calls_N,
        rows=rows_N,
        drafts=np.full(count, drafts),
        passed=np.full(count, passed),
        unexpected=np.zeros(count, dtype=np.int64),
        seconds=np.full(count, 0.01),
    )


def context(module, path, **settings):
    """Give the context of a run of an experiment's module."""
    name = module.__name__.rpartition(".")[2]
    return RunContext(Experiment(name, "modicum-pvf", "t", "s", module.run), path, **settings)


def by_name(claims):
    """Give claims by their names."""
    return {claim.name: claim for claim in claims}
