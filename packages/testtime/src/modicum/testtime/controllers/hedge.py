"""Exponential weights on the rewards of all experts: full information."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np

from modicum.testtime.controllers._softmax import check_rate, draw, log_softmax
from modicum.testtime.controllers.base import VectorController

__all__ = ["Hedge"]


class Hedge(VectorController):
    """Let every expert answer each round and weigh expert a with exp(η S_a).

    S_a is the sum of its rewards so far. For cheap experts: a round costs K answers. The one that
    counts is named before the rewards of the round are known, drawn from the weights; its expected
    regret is at most ``sqrt(T ln K / 2)`` against every sequence of rewards. Source: Freund and
    Schapire, "A Decision-Theoretic Generalization of On-Line Learning", 1997; the constants are
    those of Cesa-Bianchi and Lugosi, "Prediction, Learning, and Games", 2006, Theorem 2.2.

    Parameters
    ----------
    eta
        Learning rate η; "auto" is ``sqrt(8 ln K / T)``. In a session T is the number of rounds
        played before this prompt and of this prompt's together.
    play
        "draw" names an expert drawn from the weights; "argmax" the one of the largest weight,
        lowest index on ties (follow the leader), which has no bound against an adversary.
    reset
        "query" or "session".
    """

    name: ClassVar[str] = "hedge"
    full_information: ClassVar[bool] = True

    def __init__(
        self,
        eta: float | Literal["auto"] = "auto",
        play: Literal["draw", "argmax"] = "draw",
        reset: Literal["query", "session"] = "query",
    ) -> None:
        super().__init__(reset)
        if play not in ("draw", "argmax"):
            raise ValueError(f'play must be "draw" or "argmax", not {play!r}')
        self.eta = check_rate(eta)
        self.play = play

    def rate(self) -> float:
        """Return the learning rate η in force."""
        if self.eta != "auto":
            return self.eta
        return math.sqrt(8 * math.log(self.num_experts) / self.horizon)

    def log_probs(self) -> np.ndarray:
        """Return the logarithms of the weights, which sum to 1, float64 ``[X, K]``."""
        return log_softmax(self.rate() * self.reward_sums)

    def select(self) -> np.ndarray:
        """Return the expert whose answer counts in each game, int64 ``[X]``."""
        if self.play == "argmax":
            return self.reward_sums.argmax(axis=-1)
        return draw(self.log_probs(), self.rng)
