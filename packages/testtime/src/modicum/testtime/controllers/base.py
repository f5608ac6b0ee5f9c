"""What a controller is: it names the expert of the next round and learns from rewards.

The online-learning half of self-correction. A controller sees numbers only: the index of an expert,
a reward in [0, 1]. It knows no prompts and no texts.

Legend: ``K`` experts, ``R`` games played side by side, ``X`` nothing or ``R``.
"""

from __future__ import annotations

import abc
import copy
import inspect
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from modicum.core.device import numpy_generator

__all__ = ["Controller", "VectorController"]


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
    alternate, with `new_query` between two prompts. A full-information controller
    (`full_information`) has every expert run each round: `choose` names the one whose answer counts
    and `observe_all` then takes the rewards of all of them. The same settings, seed and rewards
    give the same choices.
    """

    name: ClassVar[str] = ""
    """Name on the command line and in logs."""
    full_information: ClassVar[bool] = False
    """Whether every expert runs each round."""
    tries_all: ClassVar[bool] = False
    """Whether the rule begins with every expert once, so that fewer rounds make no sense of it."""

    def __init__(self, reset: Literal["query", "session"] = "query") -> None:
        if reset not in ("query", "session"):
            raise ValueError(f'reset must be "query" or "session", not {reset!r}')
        self.reset = reset

    def start(self, num_experts: int, rounds: int, seed: int = 0, *, accept: float = 1.0) -> Self:
        """Return a controller of this kind that has seen nothing.

        Parameters
        ----------
        num_experts
            K, at least 1.
        rounds
            T, the number of rounds that it will play (per prompt), for learning rates.
        seed
            Of its own choices.
        accept
            Reward in [0, 1] from which an answer counts as right, for rules that tell right from
            wrong.

        Raises
        ------
        ValueError
            If a number is out of its range.

        Warns
        -----
        UserWarning
            If the rule wants to try every expert and has fewer rounds than experts in which to
            (``reset="session"`` has the rounds of later prompts, too, and does not warn).
        """
        if num_experts < 1:
            raise ValueError(f"num_experts must be at least 1, not {num_experts!r}")
        if rounds < 1:
            raise ValueError(f"rounds must be at least 1, not {rounds!r}")
        if not 0 <= accept <= 1:
            raise ValueError(f"accept must be a reward in [0, 1], not {accept!r}")
        if self.tries_all and self.reset == "query" and rounds < num_experts:
            warnings.warn(
                f"{type(self).__name__} tries every expert once before it learns, but has"
                f" {rounds} rounds for {num_experts} experts; give rounds >= {num_experts}",
                UserWarning,
                stacklevel=2,
            )
        started = copy.copy(self)
        started.num_experts = num_experts
        started.rounds = rounds
        started.accept = accept
        return started.restart(seed)

    num_experts: int
    rounds: int
    accept: float
    rng: np.random.Generator
    horizon: int
    """Rounds that the learning rates reckon with: those played before this prompt and `rounds`."""
    played: int
    """Rounds observed since `forget`."""
    pulls: np.ndarray
    """Answers seen per expert, int64 ``[K]``."""
    reward_sums: np.ndarray
    """Sum of rewards per expert, float64 ``[K]``."""

    def restart(self, seed: int) -> Self:
        """Return this started controller with another seed and nothing seen."""
        other = copy.copy(self)
        other.rng = numpy_generator(seed, "controller")
        other.forget()
        return other

    def forget(self) -> None:
        """Drop everything learned (subclasses with more state extend this)."""
        self.played = 0
        self.horizon = self.rounds
        self.pulls = np.zeros(self.num_experts, dtype=np.int64)
        self.reward_sums = np.zeros(self.num_experts)

    def new_query(self) -> None:
        """Say that another prompt begins."""
        if self.reset == "query":
            self.forget()
        else:
            self.horizon = self.played + self.rounds

    @property
    def exhausted(self) -> bool:
        """Whether another round on this prompt could not help by the rule's own assumptions."""
        return False

    @abc.abstractmethod
    def choose(self) -> int:
        """Return the expert of the next round."""

    def observe(self, expert: int, reward: float) -> None:
        """Learn the reward in [0, 1] of the expert of this round.

        Raises
        ------
        ValueError
            If there is no such expert or the reward is outside of [0, 1].
        """
        self._check(expert, reward)
        self.played += 1
        self.pulls[expert] += 1
        self.reward_sums[expert] += reward

    def observe_all(self, rewards_K: Sequence[float]) -> None:
        """Learn the rewards in [0, 1] of all experts in this round, shape ``[K]``.

        Raises
        ------
        ValueError
            If there is not one reward per expert or one is outside of [0, 1].
        """
        if len(rewards_K) != self.num_experts:
            raise ValueError(
                f"rewards of {self.num_experts} experts are needed, not {len(rewards_K)}"
            )
        for expert, reward in enumerate(rewards_K):
            self._check(expert, reward)
        self.played += 1
        self.pulls += 1
        self.reward_sums += np.asarray(rewards_K, dtype=np.float64)

    def _check(self, expert: int, reward: float) -> None:
        if not 0 <= expert < self.num_experts:
            raise ValueError(f"expert must be in [0, {self.num_experts}), not {expert!r}")
        if not 0 <= reward <= 1:
            raise ValueError(f"reward must be in [0, 1], not {reward!r} (expert {expert})")

    def settings(self) -> dict[str, Any]:
        """Return the constructor's parameters that are attributes of the same name."""
        names = inspect.signature(type(self)).parameters
        return {name: getattr(self, name) for name in names if hasattr(self, name)}

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self.settings().items())
        return f"{type(self).__name__}({values})"


class VectorController(Controller):
    """A controller whose state may have a leading axis: many independent games side by side.

    Subclasses write `select` (and `learn`, where they keep more than counts and sums) once, over
    the last axis of arrays of shape ``[K]`` or ``[R, K]``; what is simulated is so the very rule
    that `choose` and `observe` play.
    """

    num_runs: int | None = None
    """R, or None for one game without the axis."""

    def side_by_side(self, num_runs: int) -> Self:
        """Return this started controller with nothing seen, playing `num_runs` games at a time.

        Its `select` and `learn` take and give arrays of shape ``[R]``; the games share the random
        stream and nothing else.
        """
        if num_runs < 1:
            raise ValueError(f"num_runs must be at least 1, not {num_runs!r}")
        other = copy.copy(self)
        other.num_runs = num_runs
        other.forget()
        return other

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of the state: ``[K]`` or ``[R, K]``."""
        return (*(() if self.num_runs is None else (self.num_runs,)), self.num_experts)

    def forget(self) -> None:
        """Drop everything learned."""
        super().forget()
        self.pulls = np.zeros(self.state_shape, dtype=np.int64)
        self.reward_sums = np.zeros(self.state_shape)

    @abc.abstractmethod
    def select(self) -> np.ndarray:
        """Return the expert of the next round in each game, int64 ``[X]``."""

    def learn(self, experts_X: npt.ArrayLike, rewards_X: npt.ArrayLike) -> None:
        """Learn the reward of one expert in each game, shapes ``[X]``; nothing is checked."""
        picked_XK = self._picked(experts_X)
        self.played += 1
        self.pulls += picked_XK
        self.reward_sums += picked_XK * np.asarray(rewards_X)[..., None]

    def learn_all(self, rewards_XK: npt.ArrayLike) -> None:
        """Learn the rewards of all experts in each game, shape ``[X, K]``; nothing is checked."""
        self.played += 1
        self.pulls += 1
        self.reward_sums += np.asarray(rewards_XK)

    def choose(self) -> int:
        """Return the expert of the next round."""
        return int(self.select())

    def observe(self, expert: int, reward: float) -> None:
        """Learn the reward in [0, 1] of the expert of this round."""
        self._check(expert, reward)
        self.learn(expert, reward)

    def _picked(self, experts_X: npt.ArrayLike) -> np.ndarray:
        """Return the choices one-hot, bool ``[X, K]``."""
        return np.asarray(experts_X)[..., None] == np.arange(self.num_experts)
