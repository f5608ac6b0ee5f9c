"""Policies to act by and learn from: the protocol, and experts made of functions and matrices.

An expert acts on a batch of observations as its environment gives them: an array ``(B, …)``, or a
dictionary or tuple of such. It may also say what it expects. Experts that need an engine are loaded
from `modicum.repcomplexity.integrations` when asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from modicum.core.device import numpy_generator
from modicum.repcomplexity.solver import Solution

__all__ = [
    "Critic",
    "Expert",
    "FunctionExpert",
    "LinearExpert",
    "SolutionExpert",
    "expected_values",
    "lqr",
    "sb3",
]


@runtime_checkable
class Expert(Protocol):
    """What acts."""

    def act(self, observations: Any, deterministic: bool) -> np.ndarray:
        """Return actions ``(B, …)`` as the environment takes them."""


@runtime_checkable
class Critic(Protocol):
    """What an expert has that knows the values of actions.

    An expert may have ``value(observations)`` too, V(s) as ``(B,)``; ``seed(number)``, which starts
    its randomness anew; and the attributes ``n_parameters`` (of its critic) and ``fingerprint``.
    """

    def q(self, observations: Any, actions: np.ndarray) -> np.ndarray:
        """Return Q(s, a) with one column for each head, ``(B, k)``."""


def expected_values(expert: Any, observations: Any, deterministic: bool) -> np.ndarray | None:
    """Return V(s) of an expert as ``(B,)``, None if it knows none.

    Without a ``value`` of its own it is the least head's value of one action of the expert.
    """
    if hasattr(expert, "value"):
        return np.asarray(expert.value(observations), dtype=np.float64).reshape(-1)
    if not isinstance(expert, Critic) or not isinstance(expert, Expert):
        return None
    return np.asarray(expert.q(observations, expert.act(observations, deterministic))).min(1)


class FunctionExpert:
    """An expert made of functions of batches, such as torch modules in a wrapper.

    Parameters
    ----------
    act
        ``act(observations, deterministic)``.
    q
        ``q(observations, actions)``, ``(B,)`` or ``(B, k)``; the expert has no critic without it.
    value
        ``value(observations)``, ``(B,)``.
    """

    def __init__(
        self,
        act: Callable[[Any, bool], npt.ArrayLike],
        q: Callable[[Any, np.ndarray], npt.ArrayLike] | None = None,
        value: Callable[[Any], npt.ArrayLike] | None = None,
    ):
        self._act = act
        # An expert is asked for what it has, so what is not given must not be there.
        if q is not None:
            self.q = lambda observations, actions: _columns(q(observations, actions))
        if value is not None:
            self.value = lambda observations: np.asarray(value(observations)).reshape(-1)

    def act(self, observations: Any, deterministic: bool) -> np.ndarray:
        """Return actions ``(B, …)``."""
        return np.asarray(self._act(observations, deterministic))


class LinearExpert:
    """Actions that are linear in the observation: clip(−K (s − s₀)), with noise before the clip.

    Parameters
    ----------
    gain
        K, ``(a, s)``.
    center
        s₀, ``(s,)``.
    low, high
        Bounds of the actions, ``(a,)``.
    noise
        Standard deviation of the Gaussian noise of actions that are not deterministic.
    """

    def __init__(
        self,
        gain: npt.ArrayLike,
        center: npt.ArrayLike,
        low: npt.ArrayLike,
        high: npt.ArrayLike,
        noise: float = 0.0,
    ):
        if not noise >= 0:
            raise ValueError(f"noise must not be negative, not {noise}")
        self.gain, self.center = np.atleast_2d(gain), np.asarray(center, dtype=float)
        self.low, self.high = np.asarray(low), np.asarray(high)
        if self.gain.shape != (len(self.low), len(self.center)):
            raise ValueError(
                f"gain must be of shape {(len(self.low), len(self.center))}, not {self.gain.shape}"
            )
        self.noise = noise
        self.seed(0)

    def seed(self, number: int) -> None:
        """Start the noise anew."""
        self._rng = numpy_generator(number, "expert")

    def act(self, observations: np.ndarray, deterministic: bool) -> np.ndarray:
        """Return actions ``(B, a)``."""
        actions = (self.center - observations) @ self.gain.T
        if not deterministic:
            actions = actions + self.noise * self._rng.standard_normal(actions.shape)
        return np.clip(actions, self.low, self.high).astype(self.low.dtype)


class SolutionExpert:
    """The exact solution of a bit-level process as an expert; it observes bits.

    Its values are those of the solution's step, whatever the time in an episode is.

    Parameters
    ----------
    solution
        The solution.
    epsilon
        Probability with which an action that is not deterministic is drawn uniformly.
    """

    def __init__(self, solution: Solution, epsilon: float = 0.0):
        if not 0 <= epsilon <= 1:
            raise ValueError(f"epsilon must be in [0, 1], not {epsilon}")
        self.solution, self.epsilon = solution, epsilon
        mdp = solution.mdp
        weights = np.zeros(mdp.n_state_bits, dtype=np.int64)
        single = np.int64(1) << np.arange(mdp.n_state_bits, dtype=np.int64)
        weights[np.asarray(mdp.observe(single)).argmax(1)] = single
        self._weights = weights
        self.seed(0)

    def seed(self, number: int) -> None:
        """Start the exploration anew."""
        self._rng = numpy_generator(number, "expert")

    def act(self, observations: np.ndarray, deterministic: bool) -> np.ndarray:
        """Return actions, int64 ``(B,)``: the lowest of the best ones."""
        actions = self._rows(observations).argmax(1)
        if deterministic or not self.epsilon:
            return actions
        drawn = self._rng.integers(0, self.solution.mdp.n_actions, len(actions))
        return np.where(self._rng.random(len(actions)) < self.epsilon, drawn, actions)

    def q(self, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Return Q*(s, a), ``(B, 1)``."""
        return np.take_along_axis(self._rows(observations), np.asarray(actions)[:, None], 1)

    def value(self, observations: np.ndarray) -> np.ndarray:
        """Return V*(s), ``(B,)``."""
        return self._rows(observations).max(1)

    def _rows(self, observations: np.ndarray) -> np.ndarray:
        codes = np.asarray(observations).astype(np.int64) @ self._weights
        indices = np.asarray(self.solution.mdp.indices_of(codes))
        return np.asarray(self.solution.Q, dtype=np.float64)[indices]


def sb3(path: str | os.PathLike[str], algo: str, **options: Any) -> Expert:
    """Load a model of stable-baselines3; see `modicum.repcomplexity.integrations.sb3.load`.

    Raises
    ------
    ImportError
        If stable-baselines3 is not installed.
    """
    from modicum.repcomplexity.integrations.sb3 import load

    return load(path, algo, **options)


def lqr(environment: Any, **options: Any) -> LinearExpert:
    """Return a linear-quadratic regulator of a MuJoCo environment, which needs no training.

    See `modicum.repcomplexity.integrations.mujoco.lqr_expert`.

    Raises
    ------
    ImportError
        If MuJoCo is not installed.
    """
    from modicum.repcomplexity.integrations.mujoco import lqr_expert

    return lqr_expert(environment, **options)


def _columns(values: npt.ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    return array[:, None] if array.ndim == 1 else array
