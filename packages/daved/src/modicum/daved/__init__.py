"""Which records to buy from sellers so that a model of them predicts a buyer's queries well."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from modicum.daved.batch import batch_select
from modicum.daved.errors import DAVEDWarning, InfeasibleBudgetError

# Not only a convenience: the function has to take the place of the module of its name.
from modicum.daved.select import score, select
from modicum.daved.selection import PlanRow, Selection

if TYPE_CHECKING:
    from modicum.daved import evaluation, features, federated, markets, peers, plots, theory
    from modicum.daved.estimator import DAVED

__all__ = [
    "DAVED",
    "DAVEDWarning",
    "InfeasibleBudgetError",
    "PlanRow",
    "Selection",
    "batch_select",
    "evaluation",
    "features",
    "federated",
    "markets",
    "peers",
    "plots",
    "score",
    "select",
    "theory",
]

_MODULES = {"evaluation", "features", "federated", "markets", "peers", "plots", "theory"}


def __getattr__(name: str) -> Any:
    if name == "DAVED":
        # It needs scikit-learn, which takes longer to import than all the rest.
        return import_module(f"{__name__}.estimator").DAVED
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
