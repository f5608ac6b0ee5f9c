"""Many episodes of one process side by side, in NumPy or torch.

An episode that has ended is begun anew in the next step, which ignores the action and pays nothing:
Gymnasium's ``AutoresetMode.NEXT_STEP``. Needs no Gymnasium.

Shapes: B episodes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from modicum.repcomplexity.bits import Array
from modicum.repcomplexity.mdp import BitMDP, as_codes, where

__all__ = ["BatchSimulator", "BatchState", "check_max_episode_steps"]


class BatchState(NamedTuple):
    """Where episodes stand."""

    codes: Array
    """States, int64 ``(B,)``."""
    steps: Array
    """Steps taken since each episode began, int64 ``(B,)``."""
    over: Array
    """Which episodes have ended and begin anew in the next step, bool ``(B,)``."""


def check_max_episode_steps(max_episode_steps: int | None) -> None:
    """Refuse a limit of steps below one."""
    if max_episode_steps is not None and max_episode_steps < 1:
        raise ValueError(f"max_episode_steps must be at least 1, not {max_episode_steps}")


class BatchSimulator:
    """States of B episodes, and the step that moves all of them.

    Parameters
    ----------
    mdp
        The process. An episode is terminated by its horizon or in a terminal state.
    num_envs
        B.
    rng
        A ``numpy.random.Generator``, or a ``torch.Generator``, on whose device the episodes are.
    max_episode_steps
        Steps after which an episode is truncated.

    Raises
    ------
    ValueError
        If `num_envs` or `max_episode_steps` is below 1.
    """

    def __init__(self, mdp: BitMDP, num_envs: int, rng: Any, max_episode_steps: int | None = None):
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, not {num_envs}")
        check_max_episode_steps(max_episode_steps)
        self.mdp, self.num_envs, self.rng = mdp, int(num_envs), rng
        self.max_episode_steps = max_episode_steps
        self.state = self._begin()

    def reset(self, rng: Any = None) -> None:
        """Begin all episodes anew, from now on with another source of randomness if given."""
        if rng is not None:
            self.rng = rng
        self.state = self._begin()

    def _begin(self) -> BatchState:
        codes = self.mdp.sample_states(self.num_envs, self.rng)
        return BatchState(codes, codes * 0, codes < 0)

    def set_state(self, codes: Any, steps: Any = 0) -> None:
        """Put the episodes into given states, ``(B,)`` or one for all, after given steps.

        Raises
        ------
        ValueError
            If a code is no state, a number of steps negative or their number neither 1 nor B.
        """
        codes, steps = self._for_all("codes", codes), self._for_all("steps", steps)
        known = self.mdp.is_state(codes)
        if not bool(known.all()):
            raise ValueError(f"code {int(codes[~known][0])} is no state of {self.mdp.name}")
        if bool((steps < 0).any()):
            raise ValueError(f"steps must not be negative, not {int(steps.min())}")
        terminated, truncated = self._ends(codes, steps)
        self.state = BatchState(codes, steps, terminated | truncated)

    def _for_all(self, name: str, values: Any) -> Array:
        like = self.state.codes
        numbers = as_codes(values, like)
        if tuple(numbers.shape) not in ((), (self.num_envs,)):
            raise ValueError(
                f"{name} must be one number or {self.num_envs} of them, "
                f"not of shape {tuple(numbers.shape)}"
            )
        return numbers + (like & 0)

    def step(self, actions: Array) -> tuple[Array, Array, Array]:
        """Take a step in all episodes.

        Parameters
        ----------
        actions
            int64 ``(B,)`` in ``[0, A)``; checked as by `BitMDP.transitions`.

        Returns
        -------
        rewards, terminated, truncated : array or tensor
            Expected rewards as float32 in torch and float64 in NumPy, and bool, each ``(B,)``.
        """
        codes, steps, over = self.state
        rewards = _floating(self.mdp.rewards(codes, actions))
        following = self.mdp.sample_next(codes, actions, self.rng)
        steps = steps + 1
        # On a GPU, waiting to learn whether any episode is over costs more than drawing for all.
        if _is_far(codes) or bool(over.any()):
            first = self.mdp.sample_states(self.num_envs, self.rng)
            following = where(over, first, following)
            steps, rewards = where(over, 0, steps), where(over, 0.0, rewards)
        terminated, truncated = self._ends(following, steps)
        # An episode that begins in a terminal state ends with its first step.
        terminated, truncated = terminated & ~over, truncated & ~over
        self.state = BatchState(following, steps, terminated | truncated)
        return rewards, terminated, truncated

    def _ends(self, codes: Array, steps: Array) -> tuple[Array, Array]:
        terminated = self.mdp.is_terminal(codes)
        if self.mdp.horizon is not None:
            terminated = terminated | (steps >= self.mdp.horizon)
        if self.max_episode_steps is None:
            return terminated, codes < 0
        return terminated, (steps >= self.max_episode_steps) & ~terminated


def _floating(values: Array) -> Array:
    return values.float() if hasattr(values, "detach") else np.asarray(values, dtype=np.float64)


def _is_far(values: Array) -> bool:
    return hasattr(values, "detach") and values.device.type != "cpu"
