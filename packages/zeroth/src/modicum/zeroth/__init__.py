"""Noisy function values in, one provably good point out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from modicum.zeroth.batch import Batch
from modicum.zeroth.candidates import Candidate, Candidates
from modicum.zeroth.errors import ZerothWarning
from modicum.zeroth.methods.adaptive import Adaptive
from modicum.zeroth.methods.kernel_zo import KernelZO
from modicum.zeroth.methods.mezo import MeZO
from modicum.zeroth.methods.spsa import SPSA
from modicum.zeroth.methods.two_stage import TwoStage
from modicum.zeroth.methods.zosgd import ZOSGD
from modicum.zeroth.minimize import METHODS, minimize, scipy_method
from modicum.zeroth.optimizer import Optimizer, Recommendation, Round
from modicum.zeroth.oracle import Oracle
from modicum.zeroth.plan import Plan, plan
from modicum.zeroth.space import Ball, Space

if TYPE_CHECKING:
    from modicum.zeroth import estimators, executors, kernels, linalg, plots, problems, theory

__all__ = [
    "METHODS",
    "SPSA",
    "ZOSGD",
    "Adaptive",
    "Ball",
    "Batch",
    "Candidate",
    "Candidates",
    "KernelZO",
    "MeZO",
    "Optimizer",
    "Oracle",
    "Plan",
    "Recommendation",
    "Round",
    "Space",
    "TwoStage",
    "ZerothWarning",
    "estimators",
    "executors",
    "kernels",
    "linalg",
    "minimize",
    "plan",
    "plots",
    "problems",
    "scipy_method",
    "theory",
]

_ON_DEMAND = {"estimators", "executors", "kernels", "linalg", "plots", "problems", "theory"}


def __getattr__(name: str) -> Any:
    if name in _ON_DEMAND:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
