"""The least-tried expert goes next."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from modicum.testtime.controllers.base import VectorController

__all__ = ["RoundRobin"]


class RoundRobin(VectorController):
    """Play the expert with the fewest rounds so far, ties at random (seeded).

    For a binary verifier and stochastic experts of unknown quality that answer anew each time. With
    success probabilities s_k it succeeds within T rounds, T a multiple of K, with probability
    ``1 - Π (1 - s_k)^(T/K)``; that is never less than the ``1 - (1 - mean s)^T`` of T draws from a
    uniform mixture of the experts (arithmetic and geometric mean). Rewards are not looked at.

    Parameters
    ----------
    reset
        "query" starts a new round at every prompt, "session" goes on where the last prompt ended.
    """

    name: ClassVar[str] = "round-robin"

    def select(self) -> np.ndarray:
        """Return a least-tried expert in each game, int64 ``[X]``."""
        least_XK = self.pulls == self.pulls.min(axis=-1, keepdims=True)
        return np.where(least_XK, self.rng.random(self.state_shape), -1.0).argmax(axis=-1)
