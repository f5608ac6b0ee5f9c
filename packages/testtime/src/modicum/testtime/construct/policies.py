"""What the glued transformer's controller computes: index policies and softmax policies.

An *index policy* gives every expert a number from integers that it has counted (pulls n, accepted
answers S, turns t) and plays the largest. A *softmax policy* plays expert a with probability
proportional to ``exp(eta * sum of a's values)``. Both are plain descriptions; `controller` turns
them into weights.

Legend: ``T`` turns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from modicum.testtime.controllers.base import Controller
from modicum.testtime.controllers.eliminate import Eliminate
from modicum.testtime.controllers.exp3 import EXP3
from modicum.testtime.controllers.hedge import Hedge
from modicum.testtime.controllers.round_robin import RoundRobin
from modicum.testtime.controllers.ucb1 import UCB1

__all__ = [
    "UNTRIED_BONUS",
    "IndexPolicy",
    "SoftmaxPolicy",
    "as_policy",
    "eliminate",
    "exp3",
    "hedge",
    "round_robin",
    "ucb1",
]

UNTRIED_BONUS = 10.0
"""Least bonus of an untried expert: above all others, and small enough to cost float32 no digits.
"""


@dataclass(frozen=True)
class IndexPolicy:
    """Play the expert with the largest ``table(n, S) + bonus(t, n)``.

    Parameters
    ----------
    name
        What to call it.
    table
        Index of an expert with n answers, S of them accepted, 0 <= S <= n.
    bonus
        What is added after t turns for an expert with n answers, n <= t; None for nothing.
    ties
        "lowest" plays the first of the largest; "random" gives all of them the same logit, so that
        sampling the action chooses uniformly.
    """

    name: str
    table: Callable[[int, int], float]
    bonus: Callable[[int, int], float] | None = None
    ties: Literal["lowest", "random"] = "lowest"

    def __post_init__(self) -> None:
        """Refuse unknown ways with ties."""
        if self.ties not in ("lowest", "random"):
            raise ValueError(f'ties must be "lowest" or "random", not {self.ties!r}')

    def tables(self, turns: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ``table[n, S]`` and ``bonus[t, n]``, float64 ``[T + 1, T + 1]``.

        What cannot occur (S > n, n > t) is 0.

        Raises
        ------
        ValueError
            If a value is not finite.
        """
        index_TT = np.zeros((turns + 1, turns + 1))
        bonus_TT = np.zeros((turns + 1, turns + 1))
        for large in range(turns + 1):
            for small in range(large + 1):
                index_TT[large, small] = self.table(large, small)
                if self.bonus is not None:
                    bonus_TT[large, small] = self.bonus(large, small)
        for what, values_TT in (("table", index_TT), ("bonus", bonus_TT)):
            if not np.isfinite(values_TT).all():
                at = tuple(int(index) for index in np.argwhere(~np.isfinite(values_TT))[0])
                raise ValueError(
                    f"policy {self.name!r}: {what}{at} is {values_TT[at]}; values must be finite "
                    f"(an untried expert: {UNTRIED_BONUS:g}, not infinity)"
                )
        return index_TT, bonus_TT


@dataclass(frozen=True)
class SoftmaxPolicy:
    """Play expert a with probability proportional to ``exp(eta * sum of a's values)``.

    Parameters
    ----------
    name
        What to call it.
    eta
        Learning rate, None for the one that fits the number of experts and rounds.
    estimator
        Value of a reward r that was seen with probability p: "plain" r, "reward" r/p, "loss"
        (r - 1)/p.
    full_information
        Whether every expert answers in every round, K turns of the stream.
    """

    name: str
    eta: float | None = None
    estimator: Literal["plain", "reward", "loss"] = "plain"
    full_information: bool = False

    def __post_init__(self) -> None:
        """Refuse rates and estimators that there are not."""
        if self.eta is not None and not (math.isfinite(self.eta) and self.eta >= 0):
            raise ValueError(f"eta must be finite and >= 0, not {self.eta!r}")
        if self.estimator not in ("plain", "reward", "loss"):
            raise ValueError(f"estimator must be plain, reward or loss, not {self.estimator!r}")

    def rate(self, num_experts: int, turns: int) -> float:
        """Return the learning rate.

        Unless given: ``sqrt(8 ln K / T)`` with full information, where T counts rounds of K turns
        each, and ``sqrt(2 ln K / (T K))`` otherwise.
        """
        if self.eta is not None:
            return self.eta
        if self.full_information:
            rounds = max(1, turns // num_experts)
            return math.sqrt(8 * math.log(num_experts) / rounds)
        return math.sqrt(2 * math.log(num_experts) / (turns * num_experts))

    def value(self, reward: float, probability: float) -> float:
        """Return what the feedback token carries."""
        if self.estimator == "plain":
            return reward
        return (reward if self.estimator == "reward" else reward - 1) / probability


def ucb1(c: float = 2.0) -> IndexPolicy:
    """Return UCB1: untried experts first, then the largest ``S/n + sqrt(c ln t / n)``."""
    if not (math.isfinite(c) and c >= 0):
        raise ValueError(f"c must be finite and >= 0, not {c!r}")

    def bonus(total: int, pulls: int) -> float:
        if pulls == 0:
            # t turns never give a tried expert more than 1 + sqrt(c ln t).
            return max(UNTRIED_BONUS, 2 + math.sqrt(c * math.log(max(total, 1))))
        return math.sqrt(c * math.log(total) / pulls)

    return IndexPolicy("ucb1", lambda pulls, wins: wins / pulls if pulls else 0.0, bonus)


def round_robin(ties: Literal["lowest", "random"] = "lowest") -> IndexPolicy:
    """Return the policy that plays the least-tried expert."""
    return IndexPolicy("round-robin", lambda pulls, _: -float(pulls), ties=ties)


def eliminate() -> IndexPolicy:
    """Return the policy that plays an expert with the fewest failures, most successes first."""
    return IndexPolicy("eliminate", lambda pulls, wins: wins / (wins + 1) - (pulls - wins))


def hedge(eta: float | None = None) -> SoftmaxPolicy:
    """Return exponential weights with full information."""
    return SoftmaxPolicy("hedge", eta, "plain", full_information=True)


def exp3(eta: float | None = None, estimator: Literal["loss", "reward"] = "loss") -> SoftmaxPolicy:
    """Return exponential weights on importance-weighted losses, or rewards.

    `modicum.testtime.controllers.exp3.EXP3` says what the two estimators are worth.
    """
    return SoftmaxPolicy("exp3", eta, estimator)


def as_policy(controller: Any) -> IndexPolicy | SoftmaxPolicy:
    """Return the policy that a controller's name, object or table stands for.

    Parameters
    ----------
    controller
        A policy; "ucb1", "round-robin", "eliminate", "hedge" or "exp3"; a controller of
        `modicum.testtime.controllers` of one of these kinds, as it is configured; or a function
        ``table(n, S)``.

    Raises
    ------
    ValueError
        For an unknown name, or a controller's setting that a stream has no place for: memory across
        prompts, random order, follow-the-leader.
    TypeError
        For anything else.
    """
    named: dict[str, Callable[[], IndexPolicy | SoftmaxPolicy]] = {
        "ucb1": ucb1,
        "round-robin": round_robin,
        "eliminate": eliminate,
        "hedge": hedge,
        "exp3": exp3,
    }
    if isinstance(controller, IndexPolicy | SoftmaxPolicy):
        return controller
    if isinstance(controller, str):
        name = controller.replace("_", "-")
        if name not in named:
            raise ValueError(f"controller must be one of {', '.join(named)}, not {controller!r}")
        return named[name]()
    if isinstance(controller, Controller):
        return _policy_of(controller)
    if callable(controller):
        return IndexPolicy(getattr(controller, "__name__", "table"), controller)
    raise TypeError(
        "controller must be a policy, its name, a controller of modicum.testtime.controllers or a "
        f"function table(n, S), not {controller!r}"
    )


def _policy_of(controller: Controller) -> IndexPolicy | SoftmaxPolicy:
    name = type(controller).__name__
    if controller.reset != "query":
        raise ValueError(
            f"{name}(reset={controller.reset!r}) remembers earlier prompts, and a stream has one: "
            'use reset="query"'
        )
    match controller:
        case UCB1():
            return ucb1(controller.c)
        case RoundRobin():
            return round_robin("random")
        case Eliminate(order="index"):
            return eliminate()
        case Hedge(play="draw"):
            return hedge(None if controller.eta == "auto" else controller.eta)
        case EXP3():
            return exp3(None if controller.eta == "auto" else controller.eta, controller.estimator)
    raise ValueError(
        f"{name} with these settings is neither an index policy nor a softmax policy on a stream; "
        "there are UCB1, RoundRobin, Eliminate in order of index, Hedge that draws, and EXP3"
    )
