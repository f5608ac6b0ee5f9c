"""The state of everybody's global random number generators, to be put back later.

The two evaluations of a pair are to differ by the parameters and by nothing else: the same dropout,
the same batch if the loss draws one. Covers torch on the CPU and on all CUDA devices, NumPy and
Python; a generator object that a loss holds for itself is the caller's.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class RandomState:
    """A snapshot of the global generators."""

    cpu: torch.Tensor
    cuda: list[torch.Tensor]
    numpy: Any
    python: Any

    @classmethod
    def now(cls) -> RandomState:
        """Take a snapshot."""
        # Asking for the states of devices that nobody uses yet would start CUDA.
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        return cls(torch.get_rng_state(), cuda, np.random.get_state(), random.getstate())

    def restore(self) -> None:
        """Put the generators back to where they were."""
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)
        np.random.set_state(self.numpy)
        random.setstate(self.python)
