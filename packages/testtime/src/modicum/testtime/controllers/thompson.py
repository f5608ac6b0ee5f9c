"""An expert is played as often as it is likely to be the best."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from modicum.testtime.controllers.base import VectorController

__all__ = ["Thompson"]


class Thompson(VectorController):
    """Draw each expert's success rate from Beta(1 + S, 1 + n - S) and play the largest.

    S and n are the sum of rewards and the rounds of an expert. For binary rewards (others in [0, 1]
    count as fractions of a success), and for sessions, which is the default: within one prompt
    there is little to learn before it is solved. Source: Thompson, "On the likelihood that one
    unknown probability exceeds another", 1933; Agrawal and Goyal, arXiv 1111.1797.

    Parameters
    ----------
    reset
        "session" or "query".
    """

    name: ClassVar[str] = "thompson"

    def __init__(self, reset: Literal["query", "session"] = "session") -> None:
        super().__init__(reset)

    def select(self) -> np.ndarray:
        """Return the expert of the largest drawn rate in each game, int64 ``[X]``."""
        return self.rng.beta(1 + self.reward_sums, 1 + self.pulls - self.reward_sums).argmax(
            axis=-1
        )
