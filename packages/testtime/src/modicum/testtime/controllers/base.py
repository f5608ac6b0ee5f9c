"""What a controller is: it names the expert of the next round and learns from rewards.

The online-learning half of self-correction. A controller sees numbers only: the index of an expert,
a reward in [0, 1]. It knows no prompts and no texts.
"""

from __future__ import annotations

import abc
import copy
from typing import ClassVar, Literal, Self

import numpy as np

from modicum.core.device import numpy_generator

__all__ = ["Controller"]


class Controller(abc.ABC):
    """Choice among experts 0 … num_experts - 1, round after round.

    Parameters
    ----------
    reset
        "query" forgets at every new prompt, "session" keeps what it learned across the prompts of
        one unknown task.

    Notes
    -----
    `start` binds the settings to a number of experts and a seed; afterwards `choose` and `observe`
    alternate. A full-information controller (`full_information`) has every expert run each round;
    `observe` then takes the rewards of all of them and `choose` names the one whose answer counts.
    """

    full_information: ClassVar[bool] = False

    def __init__(self, reset: Literal["query", "session"] = "query") -> None:
        if reset not in ("query", "session"):
            raise ValueError(f'reset must be "query" or "session", not {reset!r}')
        self.reset = reset

    def start(self, num_experts: int, rounds: int, seed: int = 0) -> Self:
        """Return a controller of this kind that has seen nothing.

        Parameters
        ----------
        num_experts
            K, at least 1.
        rounds
            T, the number of rounds that it will play (per prompt), for learning rates.
        seed
            Of its own choices.
        """
        if num_experts < 1:
            raise ValueError(f"num_experts must be at least 1, not {num_experts!r}")
        if rounds < 1:
            raise ValueError(f"rounds must be at least 1, not {rounds!r}")
        started = copy.copy(self)
        started.num_experts = num_experts
        started.rounds = rounds
        started.rng = numpy_generator(seed, "controller")
        started.pulls = np.zeros(num_experts, dtype=np.int64)
        started.reward_sums = np.zeros(num_experts)
        started.forget()
        return started

    num_experts: int
    rounds: int
    rng: np.random.Generator
    pulls: np.ndarray
    """Rounds per expert, int64 ``[K]``."""
    reward_sums: np.ndarray
    """Sum of rewards per expert, float64 ``[K]``."""

    def forget(self) -> None:
        """Drop everything learned (subclasses with more state extend this)."""
        self.pulls = np.zeros(self.num_experts, dtype=np.int64)
        self.reward_sums = np.zeros(self.num_experts)

    def new_query(self) -> None:
        """Say that another prompt begins."""
        if self.reset == "query":
            self.forget()

    @abc.abstractmethod
    def choose(self) -> int:
        """Return the expert of the next round."""

    def observe(self, expert: int, reward: float) -> None:
        """Learn the reward in [0, 1] of one expert."""
        self.pulls[expert] += 1
        self.reward_sums[expert] += reward
