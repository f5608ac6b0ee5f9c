"""Any expert, whatever happened: independent draws from the mixture."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from modicum.testtime.controllers.base import VectorController

__all__ = ["Uniform"]


class Uniform(VectorController):
    """Play an expert drawn uniformly at random, independently in every round.

    The baseline: repeated sampling from the mixture of the experts, without any memory. It is the
    one controller under which the answers of several experts are independent draws from one law.

    Parameters
    ----------
    reset
        Of no consequence; there is nothing to forget.
    """

    name: ClassVar[str] = "uniform"

    def select(self) -> np.ndarray:
        """Return an expert in each game, int64 ``[X]``."""
        return self.rng.integers(self.num_experts, size=self.state_shape[:-1])
