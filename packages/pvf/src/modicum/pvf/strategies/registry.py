"""Strategies by name, our own and those that other distributions register.

Another distribution adds a strategy through the entry point group ``modicum.pvf.strategies``: the
entry's name is the strategy's, its object is called with the settings and gives a `Strategy`.
"""

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any

from modicum.pvf.policy import AutoPVF
from modicum.pvf.strategies.base import Strategy
from modicum.pvf.strategies.draft import DraftVerify
from modicum.pvf.strategies.one_row import (
    KLASS,
    EarlyCommit,
    EntropyBound,
    ExtraToken,
    Factor,
    Threshold,
    TopK,
)
from modicum.pvf.strategies.plan_verify_fill import PVF
from modicum.pvf.validation import check_choice

__all__ = ["STRATEGIES", "as_strategy", "strategy_names"]

GROUP = "modicum.pvf.strategies"


def _plan_only(**settings: Any) -> PVF:
    return PVF(**{"routes": ("plan",), **settings})


def _fill_only(**settings: Any) -> PVF:
    return PVF(**{"routes": ("fill",), **settings})


def _ranked(rank: str) -> Callable[..., TopK]:
    return lambda **settings: TopK(**{"rank": rank, **settings})


def _planned_extra(**settings: Any) -> ExtraToken:
    return ExtraToken(**{"plan_vocab": "default", **settings})


STRATEGIES: Mapping[str, Callable[..., Strategy]] = {
    "pvf": PVF,
    "auto": AutoPVF,
    "plan": _plan_only,
    "fill": _fill_only,
    "threshold": Threshold,
    "topk": TopK,
    "random": _ranked("random"),
    "margin": _ranked("margin"),
    "entropy": _ranked("entropy"),
    "factor": Factor,
    "entropy_bound": EntropyBound,
    "klass": KLASS,
    "early_commit": EarlyCommit,
    "draft": DraftVerify,
    "bin_random": ExtraToken,
    "bin_plan": _planned_extra,
    "extra_token": ExtraToken,
}


def strategy_names() -> tuple[str, ...]:
    """Give the names of all strategies, those of other distributions at the end."""
    others = sorted(entry.name for entry in entry_points(group=GROUP))
    return (*STRATEGIES, *(name for name in others if name not in STRATEGIES))


def as_strategy(given: Strategy | str, **settings: Any) -> Strategy:
    """Make a strategy of its name and settings; a strategy stays what it is.

    Raises
    ------
    ValueError
        If there is none of the name.
    TypeError
        If it is neither, or settings are given for a strategy that has its own.
    """
    if isinstance(given, str):
        # Our own first: the others' names stand in the files of all installed distributions.
        if given in STRATEGIES:
            return STRATEGIES[given](**settings)
        check_choice("strategy", given, strategy_names())
        (entry,) = entry_points(group=GROUP, name=given)
        found: Strategy = entry.load()(**settings)
        return found
    # A class has all that the protocol asks for, but is no strategy.
    if not isinstance(given, Strategy) or isinstance(given, type):
        raise TypeError(f"strategy must be a name or a Strategy, not a {type(given).__name__}")
    if settings:
        raise TypeError(f"{given.name!r} has its settings: {', '.join(settings)} go to its class")
    return given
