"""The expert with the highest upper confidence bound goes next."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np

from modicum.testtime.controllers.base import VectorController

__all__ = ["UCB1"]


class UCB1(VectorController):
    """Play untried experts first, then the largest ``S_a/n_a + sqrt(c ln t / n_a)``.

    S_a and n_a are the sum of rewards and the rounds of expert a, t the rounds so far; ties go to
    the lowest index. For real rewards in [0, 1]. With c = 2 the expected cumulative regret is at
    most ``Σ 8 ln T / Δ_k + (1 + π²/3) Σ Δ_k``. Source: Auer, Cesa-Bianchi and Fischer,
    "Finite-time Analysis of the Multiarmed Bandit Problem", 2002, Theorem 1.

    Parameters
    ----------
    c
        Weight of the bonus, at least 0 (0 follows the leader).
    reset
        "query" or "session".
    """

    name: ClassVar[str] = "ucb1"
    tries_all: ClassVar[bool] = True

    def __init__(self, c: float = 2.0, reset: Literal["query", "session"] = "query") -> None:
        super().__init__(reset)
        if not (math.isfinite(c) and c >= 0):
            raise ValueError(f"c must be finite and >= 0, not {c!r}")
        self.c = c

    def indices(self) -> np.ndarray:
        """Return the upper confidence bounds, float64 ``[X, K]``; infinity for untried experts."""
        pulls_XK = self.pulls
        tried_XK = np.maximum(pulls_XK, 1)
        total_X1 = np.maximum(pulls_XK.sum(axis=-1, keepdims=True), 1)
        bounds_XK = self.reward_sums / tried_XK + np.sqrt(self.c * np.log(total_X1) / tried_XK)
        return np.where(pulls_XK == 0, np.inf, bounds_XK)

    def select(self) -> np.ndarray:
        """Return the expert of the largest index in each game, int64 ``[X]``."""
        return self.indices().argmax(axis=-1)
